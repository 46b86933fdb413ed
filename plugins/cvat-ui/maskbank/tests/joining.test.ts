import { expect, test } from 'vitest';
import type { Found } from '../src/ts/joining';
import { joinSweeps } from '../src/ts/joining';
import type { Outline } from '../src/ts/outlines';
import { maskWithout } from '../src/ts/pixels';

const MASK = { type: 'mask', points: [0, 2, 1, 3, 100, 50, 102, 51] };

test.each<[string, Outline, number[] | null]>([
    ['what lies elsewhere', { type: 'mask', points: [0, 4, 200, 50, 201, 51] }, MASK.points],
    ['its left column', { type: 'rectangle', points: [90, 0, 101, 99] }, [0, 1, 1, 2, 101, 50, 102, 51]],
    ['its lower row', { type: 'mask', points: [0, 3, 100, 51, 102, 51] }, [0, 2, 100, 50, 101, 50]],
    ['all but two pixels', { type: 'mask', points: [1, 3, 1, 1, 100, 50, 102, 51] }, [0, 1, 2, 1, 100, 50, 101, 51]],
    ['all of it', MASK, null],
])('a mask without %s', (_, other, points) => {
    expect(maskWithout(MASK, other)).toEqual(points && { type: 'mask', points });
});

/** A mask of all pixels from column `left` on, ten rows high. */
function block(left: number, width: number): Outline {
    return { type: 'mask', points: [0, 10 * width, left, 0, left + width - 1, 9] };
}

function sweep(outlines: readonly (Outline | null)[], confidence: number): Found {
    return new Map(outlines.map((outline, index) => [index + 1, { outline, confidence }]));
}

/** What is left of two objects on the frames 1 and 2, the second of which is outlined again on frame 3. */
async function joinedWith(second: { ahead: Found; back: Found }, ahead: Found, drawn?: Outline): Promise<Found[]> {
    const outline = block(0, 1);
    const third = { start: outline, annotated: new Map(drawn ? [[2, drawn]] : []), absent: new Set<number>() };
    const objects = [
        { start: outline, annotated: new Map<number, Outline | null>(), absent: new Set<number>() },
        { start: outline, annotated: new Map([[3, outline]]), absent: new Set<number>() },
        third,
    ];
    const found = [ahead, second.ahead, new Map()];
    await joinSweeps(objects, found, [new Map(), second.back, new Map()], [0, 1, 2, 3]);
    return found;
}

test('what only the way back has found is not lost to a larger mask in its place', async () => {
    const phone = block(12, 4);
    const second = { ahead: sweep([null, null], 0.3), back: sweep([phone, phone], 0.9) };
    const [person, found] = await joinedWith(second, sweep([block(0, 30), block(0, 30)], 0.9));
    expect(found!.get(2)).toEqual({ outline: phone, confidence: 0.45 });
    expect(person!.get(2)!.outline).toEqual(maskWithout(block(0, 30), phone));
});

test('what a surer one has is an object that is gone', async () => {
    const second = { ahead: sweep([null, null], 0.3), back: sweep([block(0, 20), block(0, 20)], 0.9) };
    const [person, found] = await joinedWith(second, sweep([block(0, 30), block(0, 30)], 0.9));
    expect(person!.get(2)!.outline).toEqual(block(0, 30));
    expect(found!.get(2)).toEqual({ outline: null, confidence: 0.55 });
});

test('what a person drew keeps its pixels', async () => {
    const second = { ahead: sweep([null, null], 0.3), back: sweep([block(0, 20), block(0, 20)], 0.9) };
    const [, found] = await joinedWith(second, sweep([block(90, 3), block(90, 3)], 0.9), block(15, 30));
    expect(found!.get(2)!.outline).toEqual(block(0, 15));
    expect(found!.get(1)!.outline).toEqual(block(0, 20));
});
