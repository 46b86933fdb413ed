import { describe, expect, test } from 'vitest';
import type { Outline } from '../src/ts/outlines';
import { asType, outlineOf, sameOutline } from '../src/ts/outlines';
import { sharedCases } from './cases';

interface Rotated extends Outline {
    rotation: number;
    expected: Outline;
}

const BOX = { type: 'rectangle', points: [10, 20, 50, 30] };
const ELLIPSE = { type: 'ellipse', points: [1000.5, 2040, 1020.5, 2032] };
const MASK = { type: 'mask', points: [0, 2, 1, 3, 100, 50, 102, 51] };

function expectClose(outline: Outline, type: string, points: readonly number[], tolerance: number): void {
    expect(outline.type).toBe(type);
    expect(outline.points).toHaveLength(points.length);
    const differences = outline.points.map((number, index) => Math.abs(number - points[index]!));
    expect(Math.max(...differences)).toBeLessThan(tolerance);
}

test('outlines are the same if type and all points are', () => {
    const box = { type: 'rectangle', points: [1, 2, 3, 4] };
    expect(sameOutline(box, { type: 'rectangle', points: [1, 2, 3, 4] })).toBe(true);
    expect(sameOutline(box, { type: 'ellipse', points: [1, 2, 3, 4] })).toBe(false);
    expect(sameOutline(box, { type: 'rectangle', points: [1, 2, 3, 5] })).toBe(false);
    expect(sameOutline(box, { type: 'rectangle', points: [1, 2, 3, 4, 5] })).toBe(false);
    expect(sameOutline(box, null)).toBe(false);
});

test.each(sharedCases<Rotated>('rotated_shapes'))('the outline of a $type rotated by $rotation', (drawn) => {
    expectClose(outlineOf(drawn), drawn.expected.type, drawn.expected.points, 1e-6);
});

describe('as another type', () => {
    test.each([0, 90, 180])('a box rotated by %i is an upright box again', (rotation) => {
        const points = rotation === 90 ? [25, 5, 35, 45] : BOX.points;
        expectClose(asType(outlineOf({ ...BOX, rotation }), 'rectangle'), 'rectangle', points, 1e-9);
    });

    test.each([
        [90, [8, 20]],
        [180, [20, 8]],
        [30, [Math.hypot(20 * Math.cos(Math.PI / 6), 4), Math.hypot(10, 8 * Math.cos(Math.PI / 6))]],
    ])('an ellipse rotated by %i has the same centre and spread', (rotation, radii) => {
        const [rx, ry] = radii as [number, number];
        const upright = asType(outlineOf({ ...ELLIPSE, rotation }), 'ellipse');
        expectClose(upright, 'ellipse', [1000.5, 2040, 1000.5 + rx, 2040 - ry], 0.002 * rx + 0.002 * ry + 0.02);
    });

    test('a box has the spread of an ellipse, whichever way around its corners go', () => {
        const [rx, ry] = [40 / Math.sqrt(3), 10 / Math.sqrt(3)];
        const corners = [10, 20, 10, 30, 50, 30, 50, 20];
        for (const outline of [BOX, { type: 'polygon', points: corners }]) {
            expectClose(asType(outline, 'ellipse'), 'ellipse', [30, 25, 30 + rx, 25 - ry], 1e-9);
        }
    });

    test('an ellipse and a box are polygons', () => {
        expect(asType(BOX, 'polygon')).toEqual({ type: 'polygon', points: [10, 20, 50, 20, 50, 30, 10, 30] });
        expect(asType(ELLIPSE, 'polygon').points).toHaveLength(128);
    });

    test('a polygon without an area has the ellipse in its box', () => {
        const line = { type: 'polygon', points: [0, 0, 10, 20, 4, 8] };
        expect(asType(line, 'ellipse')).toEqual({ type: 'ellipse', points: [5, 10, 10, 0] });
    });

    test('the same type, or a mask: no change', () => {
        expect(asType(BOX, 'rectangle')).toBe(BOX);
        expect(asType(BOX, 'mask')).toBe(BOX);
        expect(asType(MASK, 'polygon')).toBe(MASK);
    });
});
