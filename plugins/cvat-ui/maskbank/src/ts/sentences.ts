import { statusOf } from './patience';

/**
 * CVAT does not pass on what the function says when it refuses a request. The server answers with the function's status
 * and a line of its HTTP library, such as "410 Client Error: Gone for url: http://nuclio:8070/…". These are the
 * sentences for it.
 */
const BY_STATUS: Record<number, string> = {
    400:
        'The tracker refused the request; redraw outlines that are empty or lie under others, or start a new track from ' +
        'this frame. Its log tells the administrator why.',
    401: 'The tracker wants a token that CVAT does not send; tell the administrator.',
    408: 'The tracker did not answer in time; try again.',
    410: 'The tracker no longer remembers these objects; start tracking again.',
    413:
        'These are more objects, or larger frames, than the tracker takes at once; track fewer objects together: run the ' +
        'action from the menu of one, or filter them. If one is too many, tell the administrator.',
    429: 'The tracker has too much to do; try again later.',
    503:
        'The tracker is busy, too slow for so many objects, or out of reach; try again, with fewer objects if it stays ' +
        'so.',
    504: 'The tracker did not answer in time; try again.',
};
const OF_AN_HTTP_LIBRARY = /for url: |HTTPConnectionPool|^<|^Request failed with status code/;

/** One sentence that says what went wrong in a call of the tracker: the function's own wherever it comes through. */
export function sentenceOf(error: unknown): string {
    const text = error instanceof Error ? error.message : String(error);
    if (!OF_AN_HTTP_LIBRARY.test(text)) {
        return /[.!?]$/.test(text) ? text : `${text}.`;
    }
    return (
        BY_STATUS[statusOf(error) ?? NaN] ??
        'The tracker failed; tell the administrator, who finds the reason in its log.'
    );
}
