import { framesToTrack } from './frames';
import type { FollowedObject } from './objects';

/** A frame on which an object is outlined, and the frames to track it through from there. */
export interface Stretch {
    from: number;
    frames: number[];
}

/** What a correction can change, and where. */
export interface Correction {
    frame: number;
    target: number; // where it ends if no outline comes after it
    numbers: readonly number[]; // of the job's frames
    deleted: ReadonlySet<number>; // frames of these whose outlines do not count
}

/**
 * The stretches of an object that a correction can change: from the outline before it to the one after it. Where there
 * is none before it, but a program drew the object there, back to the first of these frames, too.
 */
export function stretchesAround(object: FollowedObject, { frame, target, numbers, deleted }: Correction): Stretch[] {
    const outlined = [...object.annotated].flatMap(([each, outline]) => (outline && !deleted.has(each) ? [each] : []));
    const before = outlined.filter((each) => each < frame);
    const after = outlined.filter((each) => each > frame);
    const from = before.length ? Math.max(...before) : frame;
    const last = after.length ? Math.min(...after) : Math.max(target, frame);
    const made = before.length ? [] : [...object.byMachine.keys()];
    const stretches = [
        { from, frames: framesToTrack(numbers, from, last) },
        { from: frame, frames: framesToTrack(numbers, frame, Math.min(frame, ...made)) },
    ];
    const said = (each: number): boolean => each === frame || object.annotated.has(each) || object.absent.has(each);
    return stretches.filter(({ frames }) => !frames.every(said));
}
