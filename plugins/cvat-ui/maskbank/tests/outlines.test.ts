import { expect, test } from 'vitest';
import { sameOutline } from '../src/ts/outlines';

test('outlines are the same if type and all points are', () => {
    const box = { type: 'rectangle', points: [1, 2, 3, 4] };
    expect(sameOutline(box, { type: 'rectangle', points: [1, 2, 3, 4] })).toBe(true);
    expect(sameOutline(box, { type: 'ellipse', points: [1, 2, 3, 4] })).toBe(false);
    expect(sameOutline(box, { type: 'rectangle', points: [1, 2, 3, 5] })).toBe(false);
    expect(sameOutline(box, { type: 'rectangle', points: [1, 2, 3, 4, 5] })).toBe(false);
    expect(sameOutline(box, null)).toBe(false);
});
