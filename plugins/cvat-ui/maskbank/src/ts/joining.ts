import type { Answer } from './fusion';
import { agreementOf, joined } from './fusion';
import { maskWithout, sizeOf } from './pixels';
import type { Prediction, Target } from './tracking';

export type Found = Map<number, Prediction>; // by frame

const NESTED = 0.85; // of a mask; one that is at most half as large as another, and so far within it, is in front of it

/**
 * Puts what counts of both sweeps, between outlines of an object, in the place of what the forward sweep found.
 *
 * @param forward by object
 * @param frames from the one that was outlined at the start, in the order of tracking
 */
export async function joinSweeps(
    objects: readonly Target[],
    forward: readonly Found[],
    backward: readonly Found[],
    frames: readonly number[],
): Promise<void> {
    for (const [index, { annotated }] of objects.entries()) {
        const [ahead, back] = [forward[index]!, backward[index]!];
        const outlined = frames.flatMap((frame, position) => (!position || annotated.get(frame) ? [position] : []));
        for (const [number, stop] of outlined.slice(1).entries()) {
            const between = frames.slice(outlined[number]! + 1, stop).filter((frame) => ahead.has(frame));
            const [one, other] = [ahead, back].map((found) => between.flatMap((frame) => answerOf(found.get(frame))));
            if (one!.length === between.length && other!.length === between.length) {
                const agreements: number[] = [];
                for (const position of between.keys()) {
                    await pause();
                    agreements.push(agreementOf(one![position]!, other![position]!));
                }
                joined(one!, other!, agreements).forEach((answer, i) => ahead.set(between[i]!, answer));
            }
        }
    }
    for (const frame of frames) {
        await keepApart(frame, objects, forward, backward);
    }
}

/**
 * Masks of both sweeps on one frame may overlap: the surer one keeps the pixels, unless the other one lies within it, as
 * in `maskbank job`; those that a person drew keep theirs.
 */
async function keepApart(
    frame: number,
    objects: readonly Target[],
    forward: readonly Found[],
    backward: readonly Found[],
): Promise<void> {
    const masks = forward.flatMap((own, index) => {
        const found = own.get(frame);
        const isBack = !!found?.outline && found.outline === backward[index]!.get(frame)?.outline;
        return found?.outline?.type === 'mask' ? [{ ...found, own, isBack }] : [];
    });
    if (!masks.some(({ isBack }) => isBack)) {
        return; // those of one sweep share no pixel with each other, nor with what was drawn
    }
    await pause();
    const drawn = objects.flatMap(({ annotated }) => annotated.get(frame) ?? []).map((outline) => ({ outline }));
    masks.sort((one, other) => (other.confidence ?? 0) - (one.confidence ?? 0));
    masks.forEach((mask, rank) => {
        const size = sizeOf(mask.outline!);
        for (const other of [...drawn, ...masks.slice(0, rank)]) {
            const rest = mask.outline && other.outline && maskWithout(mask.outline, other.outline);
            if (!mask.outline || !other.outline || rest === mask.outline) {
                continue; // they are nowhere near each other
            }
            const shared = sizeOf(mask.outline) - (rest ? sizeOf(rest) : 0);
            if ('own' in other && shared > NESTED * size && 2 * size <= sizeOf(other.outline)) {
                other.outline = maskWithout(other.outline, mask.outline);
            } else {
                mask.outline = rest;
            }
        }
    });
    masks.forEach(({ own, outline, confidence }) => {
        own.set(frame, { outline, confidence: outline || confidence === null ? confidence : 1 - confidence });
    });
}

/** None where a sweep has not come so far, or CVAT hides how sure it is. */
function answerOf(found: Prediction | undefined): Answer[] {
    return found && found.confidence !== null ? [{ outline: found.outline, confidence: found.confidence }] : [];
}

/** Lets the page draw, and the annotator cancel: comparing masks takes a while. */
function pause(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve));
}
