import { expect, test } from 'vitest';
import { Pace } from '../src/ts/progress';
import { ranges, summaryOf } from '../src/ts/summary';

test.each([
    [[7, 1, 2, 3, 9, 10], '1-3, 7, 9-10'],
    [[5], '5'],
    [[1, 3, 5, 7, 9, 11], '1, 3, 5, 7 and others'],
])('the frames %j', (frames, words) => {
    expect(ranges(frames)).toBe(words);
});

test('of many objects a few are named', () => {
    const gone = new Map([[1, { outline: null, confidence: 0.7 }]]);
    const names = ['a', 'b', 'c', 'd', 'e', 'f'];
    const found = names.map(() => gone);
    const { text } = summaryOf({ done: [1], hardBoxes: [], found, end: { reason: 'finished' } }, names, [0, 1]);
    expect(text).toContain(
        'd: gone on 1. 2 more objects gone or unsure on some frames. Outline next: frame 1, a, b, c',
    );
    expect(text).toMatch(/, c, d and others\.$/);
    expect(text).not.toContain('e:');
});

test('where an object is surely gone there is nothing to outline', () => {
    const found = [new Map([[1, { outline: null, confidence: 0.8 }]])];
    const { text, frame } = summaryOf({ done: [1], hardBoxes: [], found, end: { reason: 'finished' } }, ['a'], [0, 1]);
    expect(text).toContain('a: gone on 1. No frame is worth another outline');
    expect(frame).toBeNull();
});

test.each([
    [2, 60, ', 58 s left'],
    [2, 200, ', 3 min left'],
    [60, 60, ''],
])('after a second for each frame, %d of %d', (count, total, words) => {
    let now = 5000;
    const pace = new Pace(() => now);
    expect(pace.left(1, total)).toBe('');
    now += 1000 * (count - 1);
    expect(pace.left(count, total)).toBe(words);
});
