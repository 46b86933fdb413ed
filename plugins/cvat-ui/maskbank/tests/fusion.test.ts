import { expect, test } from 'vitest';
import type { Answer } from '../src/ts/fusion';
import { agreementOf, joined } from '../src/ts/fusion';
import type { Outline } from '../src/ts/outlines';
import { sharedCases } from './cases';

interface Case {
    name: string;
    forward: number[]; // the confidence; negative where the object is gone
    backward: number[];
    agreement: number[];
    ahead: number;
    confidence: number[];
}

const RECTANGLE: Outline = { type: 'rectangle', points: [10, 20, 30, 40] };

function answer(outline: Outline | null, confidence = 0.9): Answer {
    return { outline, confidence };
}

test.each(sharedCases<Case>('fusion'))('$name', ({ forward, backward, agreement, ahead, confidence }) => {
    const sweeps = [forward, backward].map((sure, way) =>
        sure.map((each, index) => {
            const outline = { type: 'rectangle', points: [way, index, 99, 99] };
            return answer(each > 0 ? outline : null, Math.abs(each));
        }),
    );
    const found = joined(sweeps[0]!, sweeps[1]!, agreement);
    const counting = found.map((_, index) => sweeps[index < ahead ? 0 : 1]![index]!.outline);
    expect(found.map(({ outline }) => outline)).toEqual(counting);
    found.forEach((each, index) => expect(each.confidence).toBeCloseTo(confidence[index]!, 3));
});

test.each<[string, Outline | null, Outline | null, number]>([
    ['the same box', RECTANGLE, RECTANGLE, 1],
    ['half a box', RECTANGLE, { type: 'rectangle', points: [10, 20, 30, 30] }, 0.5],
    ['boxes apart', RECTANGLE, { type: 'rectangle', points: [110, 20, 130, 40] }, 0],
    ['a box and its lower left half', RECTANGLE, { type: 'polygon', points: [10, 20, 30, 40, 10, 40] }, 0.5],
    ['a box and the ellipse in it', RECTANGLE, { type: 'ellipse', points: [20, 30, 30, 20] }, Math.PI / 4],
    [
        'a mask and its box',
        { type: 'mask', points: [1, 2, 3, 2, 5, 5, 8, 6] },
        { type: 'rectangle', points: [5, 5, 9, 7] },
        0.5,
    ],
    [
        'masks apart by a column',
        { type: 'mask', points: [0, 8, 5, 5, 8, 6] },
        { type: 'mask', points: [0, 8, 6, 5, 9, 6] },
        0.6,
    ],
    ['gone twice', null, null, 1],
    ['gone once', RECTANGLE, null, 0],
])('how much %s agree', (_, one, other, share) => {
    expect(agreementOf(answer(one), answer(other))).toBeCloseTo(share, 1);
    expect(agreementOf(answer(other), answer(one))).toBeCloseTo(share, 1);
});
