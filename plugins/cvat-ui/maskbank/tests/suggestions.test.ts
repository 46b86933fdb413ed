import { expect, test } from 'vitest';
import type { Suggestion } from '../src/ts/suggestions';
import { suggest } from '../src/ts/suggestions';
import { sharedCases } from './cases';

interface Case {
    name: string;
    confidence: (number | null)[][];
    expected: Suggestion | null;
}

test.each(sharedCases<Case>('suggestions'))('$name', ({ confidence, expected }) => {
    expect(suggest(confidence)).toEqual(expected);
});
