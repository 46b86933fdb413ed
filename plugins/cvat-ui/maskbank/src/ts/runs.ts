import type { Keyframe } from './cvat-types';
import type { FollowedObject } from './objects';
import type { Prediction, Tracked } from './tracking';

/** Objects that are tracked together, from a frame on which all of them are outlined. */
export interface Run {
    objects: FollowedObject[];
    places: number[]; // of these objects among all that are tracked
    from: number;
    frames: number[]; // in order
}

/** What was found of one object, which may have been tracked in several runs from the same frame. */
export interface Outcome {
    object: FollowedObject;
    from: number;
    done: number[];
    found: ReadonlyMap<number, Prediction>;
    beside?: Keyframe[]; // of a track: what it shows next to what was tracked, where it has no keyframe
}

export function byObject(runs: readonly Run[], outcomes: readonly Tracked[]): Outcome[] {
    const all = new Map<number, Outcome>(); // by its place
    outcomes.forEach(({ done, found }, index) => {
        const { objects, places, from } = runs[index]!;
        places.forEach((place, slot) => {
            const own = found[slot] ?? new Map();
            const other = all.get(place);
            all.set(place, {
                ...{ object: objects[slot]!, from },
                done: [...(other?.done ?? []), ...done],
                found: new Map([...(other?.found ?? []), ...own]),
            });
        });
    });
    return [...all.values()];
}

/** The shapes of persons' that were made use of, by their clientID: what was tracked, and outlines on other frames. */
export function shapesUsed(outcomes: readonly Outcome[], useSeeds: boolean): Set<number | undefined> {
    const shapes = outcomes.flatMap(({ object, done, found }) => {
        if (object.kind === 'track' || !found.size) {
            return [];
        }
        const { source, byPersons } = object;
        return [source, ...[...byPersons.values()].filter(({ frame }) => useSeeds || done.includes(frame))];
    });
    return new Set(shapes.map(({ clientID }) => clientID));
}

/** What some runs, one after the other, found of so many objects; and all their frames, in order. */
export function together(
    runs: readonly Run[],
    outcomes: readonly Tracked[],
    count: number,
): { tracked: Tracked; frames: number[] } {
    const [{ from }, first] = [runs[0]!, outcomes[0]!];
    if (runs.length === 1 && first.found.length === count) {
        return { tracked: first, frames: [from, ...first.done] };
    }
    const found = Array.from({ length: count }, () => new Map());
    const [done, frames] = [new Set<number>(), new Set<number>()];
    const hardBoxes = new Map<string, Tracked['hardBoxes'][number]>(); // an object may be in several runs
    outcomes.forEach((outcome, index) => {
        const { places, from } = runs[index]!;
        outcome.found.forEach((own, slot) => own.forEach((each, frame) => found[places[slot]!]!.set(frame, each)));
        outcome.done.forEach((frame) => done.add(frame));
        [from, ...outcome.done].forEach((frame) => frames.add(frame));
        outcome.hardBoxes.forEach(({ frame, object }) =>
            hardBoxes.set(`${frame} ${places[object]!}`, { frame, object: places[object]! }),
        );
    });
    const { end } = outcomes.at(-1)!;
    const { places } = runs[outcomes.length - 1]!;
    const sorted = (numbers: ReadonlySet<number>): number[] => [...numbers].sort((one, other) => one - other);
    return {
        tracked: {
            done: sorted(done),
            hardBoxes: [...hardBoxes.values()],
            found,
            end: end.reason === 'unsure' ? { ...end, object: places[end.object]! } : end,
        },
        frames: sorted(frames),
    };
}
