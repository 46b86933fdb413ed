import { expect, test } from 'vitest';
import { ahead } from '../src/ts/ahead';
import { sharedCases } from './cases';

test.each(sharedCases<{ name: string; frame: number; outlined: number[]; ahead: number[] }>('ahead'))(
    '$name',
    ({ frame, outlined, ahead: expected }) => expect(ahead(frame, outlined)).toEqual(expected),
);
