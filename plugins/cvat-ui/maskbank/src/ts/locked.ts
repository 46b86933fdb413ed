import type { Collection, Shape, Track } from './cvat-types';
import type { Annotated } from './drawn-over';
import { isDrawnOver, liesOnTrack } from './drawn-over';
import { liesOn } from './job-shapes';
import { isAlike } from './keyframes';

/** What is left of the chosen objects, and how many are not. */
export interface Unlocked {
    unlocked: Annotated;
    locked: number;
}

/**
 * Without those chosen objects that a person locked on a frame, and those that would take the place of such a one, or give
 * it theirs: a person's outline and the program's under it, or a shape and the track under it.
 *
 * @throws Error a sentence, where nothing is left
 */
export function withoutLocked(annotated: Annotated, frame: number): Unlocked {
    const { collection, everything, states } = annotated;
    const onFrame = new Map(states.map((state) => [state.clientID, state]));
    const isLocked = ({ clientID }: Shape | Track): boolean => !!onFrame.get(clientID ?? null)?.lock;
    const shapes = everything.shapes.filter((shape) => shape.frame === frame && isLocked(shape));
    const tracks = everything.tracks.filter(isLocked);
    const isOver = (shape: Shape, track: Track): boolean => isAlike(shape, track) && liesOnTrack(shape, track, states);
    const left: Collection = {
        shapes: collection.shapes.filter(
            (shape) =>
                !isLocked(shape) &&
                !shapes.some((other) => isOneObject(shape, other, annotated)) &&
                !tracks.some((track) => isOver(shape, track)),
        ),
        tags: [],
        tracks: collection.tracks.filter((track) => !isLocked(track) && !shapes.some((shape) => isOver(shape, track))),
    };
    const locked = count(collection) - count(left);
    if (locked && !left.shapes.length && !left.tracks.some(({ clientID }) => onFrame.has(clientID ?? null))) {
        throw new Error(
            'All that was chosen on this frame is locked: unlock what is to be tracked (the padlock in the list of objects).',
        );
    }
    return { unlocked: { ...annotated, collection: left }, locked };
}

/** Whether one of two shapes is a person's outline of what a program drew in the other. */
function isOneObject(one: Shape, other: Shape, { isMachineMade }: Annotated): boolean {
    return (
        isMachineMade(one, one) !== isMachineMade(other, other) &&
        liesOn(one, other) &&
        (isAlike(one, other) || isDrawnOver(one, other))
    );
}

function count({ shapes, tracks }: Collection): number {
    return shapes.length + tracks.length;
}
