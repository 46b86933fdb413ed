import { framesToTrack } from './frames';
import type { Target } from './tracking';

/** A frame on which objects are outlined, and the frames to track them through from there. */
export interface Stretch {
    from: number;
    frames: number[];
}

/**
 * What corrections on a frame can change: the frames from the outlines before it to those after it.
 *
 * Objects are tracked together from a frame on which all of them are outlined. If it is no earlier one, they are tracked
 * from their corrections on; null if some of them have earlier outlines, but not on the same frame.
 *
 * @param numbers of the job's frames
 */
export function stretchAround(
    corrected: number,
    objects: readonly Pick<Target, 'annotated'>[],
    numbers: readonly number[],
): Stretch | null {
    const outlined = objects.map(({ annotated }) => [...annotated.keys()].filter((frame) => annotated.get(frame)));
    const before = outlined.map((frames) => frames.filter((frame) => frame < corrected));
    const common = before[0]!.filter((frame) => before.every((frames) => frames.includes(frame)));
    if (!common.length && before.some((frames) => frames.length)) {
        return null;
    }
    const from = Math.max(...common, ...(common.length ? [] : [corrected]));
    const last = Math.max(...numbers);
    const after = outlined.map((frames) => Math.min(last, ...frames.filter((frame) => frame > corrected)));
    return { from, frames: framesToTrack(numbers, from, Math.max(...after)) };
}
