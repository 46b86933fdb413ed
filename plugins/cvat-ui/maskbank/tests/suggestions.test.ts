import { expect, test } from 'vitest';
import type { Suggestion } from '../src/ts/suggestions';
import { suggest, sureness } from '../src/ts/suggestions';
import { sharedCases } from './cases';

interface Case {
    name: string;
    confidence: (number | null)[][];
    expected: Suggestion | null;
}

test.each(sharedCases<{ name: string; confidence: number; visible: boolean; expected: number }>('sureness'))(
    '$name',
    ({ confidence, visible, expected }) => expect(sureness(confidence, visible)).toBe(expected),
);

test.each(sharedCases<Case>('suggestions'))('$name', ({ confidence, expected }) => {
    expect(suggest(confidence)).toEqual(expected);
});
