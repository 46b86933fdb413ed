/** What of a forward and of a backward sweep counts: the rule and the numbers of `maskbank/tracking/fusion.py`. */
import { overlap } from './pixels';
import type { Prediction } from './tracking';

/** What a sweep found of an object on a frame, with how sure it is. */
export type Answer = Prediction & { confidence: number };

const GONE = 0.5; // what the confidence that an object is gone counts for, beside that in a mask: to miss it costs all of it
const WORN = 0.1; // what an answer is expected to lose in J on the way from one outline to the next
const AGREEMENT = 2.0; // frames' worth of J for which sweeps that agree are handed over: without a jump

/**
 * The answers that count between two outlines, frame by frame in order: on one frame the forward sweep hands over to the
 * backward sweep, where the answers that count then are surest together, and the two agree. Their confidence is the mean
 * of their own and of how much the sweeps agree on the frame.
 */
export function joined(
    forward: readonly Answer[],
    backward: readonly Answer[],
    agreements: readonly number[],
): Answer[] {
    const ahead = handover(forward, backward, agreements);
    return [...forward.slice(0, ahead), ...backward.slice(ahead)].map((answer, index) => ({
        ...answer,
        confidence: Math.round(500 * (answer.confidence + agreements[index]!)) / 1000,
    }));
}

/** How many frames between two outlines the forward sweep has; of several the one nearest to the middle. */
function handover(forward: readonly Answer[], backward: readonly Answer[], agreements: readonly number[]): number {
    const { length } = forward;
    const ahead = sumsOfExpected(forward);
    const back = sumsOfExpected([...backward].reverse());
    const worth = agreements.map((agreed, count) => ahead[count]! + back[length - count]! + AGREEMENT * agreed);
    const fromMiddle = (count: number): number => Math.abs(count - (length - 1) / 2);
    return [...worth.keys()].reduce((best, count) => {
        const gain = worth[count]! - worth[best]!;
        return gain > 1e-6 || (gain > -1e-6 && fromMiddle(count) < fromMiddle(best)) ? count : best;
    }, 0);
}

/** The J to expect of the first 0, 1, 2, … answers together. */
function sumsOfExpected(answers: readonly Answer[]): number[] {
    const sums = [0];
    answers.forEach(({ outline, confidence }, index) => {
        const way = (index + 0.5) / answers.length; // share of that from one outline to the next
        sums.push(sums[index]! + confidence * (outline ? 1 : GONE) - WORN * way);
    });
    return sums;
}

/** How much two answers agree: intersection over union, and 1 where both say that the object is gone. */
export function agreementOf({ outline: one }: Answer, { outline: other }: Answer): number {
    return one && other ? overlap(one, other) : Number(one === other);
}
