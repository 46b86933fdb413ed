import type { Keyframe, ObjectState } from './cvat-types';
import { keyframeOf } from './keyframes';
import type { Outcome } from './runs';

/** What is asked of the job. */
export interface Lookup {
    statesOn(frame: number): Promise<readonly ObjectState[]>;
    nextFrame(frame: number, towards: number): Promise<number | undefined>; // that is not deleted
}

/**
 * Outcomes with what their tracks show on the frames next to those that were tracked, where other keyframes lie beyond:
 * CVAT would interpolate from these to what was found, and move what was not tracked.
 */
export async function withBeside(outcomes: readonly Outcome[], lookup: Lookup): Promise<Outcome[]> {
    const known = new Map<number, Promise<readonly ObjectState[]>>();
    const statesOn: Lookup['statesOn'] = (frame) => {
        const states = known.get(frame) ?? lookup.statesOn(frame);
        known.set(frame, states);
        return states;
    };
    const all = outcomes.map(async (outcome) => ({
        ...outcome,
        beside: await besideOf(outcome, { ...lookup, statesOn }),
    }));
    return Promise.all(all);
}

async function besideOf({ object, from, done, found }: Outcome, lookup: Lookup): Promise<Keyframe[]> {
    if (object.kind !== 'track') {
        return [];
    }
    const { clientID, shapes } = object.source;
    const [first, last] = [Math.min(from, ...done), Math.max(from, ...done)];
    const frames: (number | undefined)[] = [];
    if (found.has(first) && shapes.some(({ frame }) => frame < first)) {
        frames.push(await lookup.nextFrame(first, -Infinity));
    }
    if (found.has(last) && shapes.some(({ frame }) => frame > last)) {
        frames.push(await lookup.nextFrame(last, Infinity));
    }
    const beside: Keyframe[] = [];
    for (const frame of frames.filter((each) => each !== undefined)) {
        const state = (await lookup.statesOn(frame)).find((each) => each.clientID === clientID);
        if (state && !state.outside) {
            beside.push(keyframeOf(state, frame));
        }
    }
    return beside;
}
