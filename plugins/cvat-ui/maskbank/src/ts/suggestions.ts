/** Which frame of a run to outline next: the rule and the numbers of `maskbank/tracking/suggestions.py`. */
export interface Suggestion {
    position: number; // of the frame in the run
    objects: number[]; // that are worth an outline there, the worst one first
}

const ERROR_WHEN_SURE = 0.04; // 1 - J of masks with confidence 1, as measured
const REACH = 0.1; // of the frames: how far from an outline a second one is worth all that it can be
const SURELY_GONE = 0.75; // confidence from which an object that is gone is believed to be: there is nothing to outline
const WORTH = 0.1; // expected 1 - J, next to an outline less; what is below it is not worth a person's time

/** The confidence as `suggest` counts it: nobody can outline an object that is gone, so there it soon is 1. */
export function sureness(confidence: number, visible: boolean): number {
    return !visible && confidence >= SURELY_GONE ? 1 : confidence;
}

/**
 * The frame that is most worth an outline; null where no outline is expected to gain much.
 *
 * @param confidence of each object by position of the frame, see `sureness`; null where a person said what is to be
 *     seen, or where it is not known
 */
export function suggest(confidence: readonly (readonly (number | null)[])[]): Suggestion | null {
    const worth = confidence.map(worthOfOutlines);
    const total = (confidence[0] ?? []).map((_, position) => worth.reduce((sum, own) => sum + own[position]!, 0));
    const most = Math.max(0, ...total);
    if (!most) {
        return null;
    }
    const position = total.indexOf(most);
    const objects = [...worth.keys()].filter((object) => worth[object]![position]);
    return { position, objects: objects.sort((one, other) => worth[other]![position]! - worth[one]![position]!) };
}

/** What an outline of an object is worth by position of the frame; 0 where it is too little. */
function worthOfOutlines(confidence: readonly (number | null)[]): number[] {
    const outlined = confidence.flatMap((each, position) => (each === null ? [position] : []));
    return confidence.map((each, position) => {
        if (each === null) {
            return 0;
        }
        const distances = outlined.map((other) => Math.abs(position - other) / (REACH * confidence.length));
        const worth = (1 - each + ERROR_WHEN_SURE) * Math.min(1, ...distances);
        return worth >= WORTH ? worth : 0;
    });
}
