/** What outlines cover, and masks as pixels. */
import type { Outline } from './outlines';
import { asType, boundsOf } from './outlines';

const GRID = 40; // places on each side of two outlines at which they are compared

/** Tells whether a place, x and y, lies in an outline. */
function containsOf(outline: Outline): (x: number, y: number) => boolean {
    if (outline.type === 'mask') {
        const { left, top, width, pixels } = bitmapOf(outline);
        return (x, y) => {
            const column = Math.floor(x) - left;
            return column >= 0 && column < width && pixels[(Math.floor(y) - top) * width + column] === 1;
        };
    }
    const { points } = asType(outline, 'polygon');
    return (x, y) => {
        // A line to the left crosses the edges of what it lies in an odd number of times.
        let isInside = false;
        let before = points.length - 2;
        for (let corner = 0; corner < points.length; corner += 2) {
            const [high, low] = [points[before + 1]!, points[corner + 1]!];
            if (high > y !== low > y) {
                const from = points[before]!;
                isInside = x > from + ((y - high) / (low - high)) * (points[corner]! - from) ? !isInside : isInside;
            }
            before = corner;
        }
        return isInside;
    };
}

type Box = readonly [left: number, top: number, right: number, bottom: number];

function areApart(one: Box, other: Box): boolean {
    return one[2] <= other[0] || other[2] <= one[0] || one[3] <= other[1] || other[3] <= one[1];
}

/** Intersection over union of two outlines, as seen at the places of a grid. */
export function overlap(one: Outline, other: Outline): number {
    if (areApart(boundsOf([one]), boundsOf([other]))) {
        return 0; // at once, and where they are so thin that no place of the grid lies in them
    }
    const [isInOne, isInOther] = [containsOf(one), containsOf(other)];
    const [left, top, right, bottom] = boundsOf([one, other]);
    let [both, either] = [0, 0];
    for (let row = 0.5; row < GRID; row++) {
        for (let column = 0.5; column < GRID; column++) {
            const place = [left + (column / GRID) * (right - left), top + (row / GRID) * (bottom - top)] as const;
            const inside = [isInOne(...place), isInOther(...place)];
            both += Number(inside[0] && inside[1]);
            either += Number(inside[0] || inside[1]);
        }
    }
    return either ? both / either : 1;
}

/** How many pixels a mask has. */
export function sizeOf(mask: Outline): number {
    return bitmapOf(mask).pixels.reduce((sum, pixel) => sum + pixel, 0);
}

/** A mask without the pixels of another outline; null where nothing is left. */
export function maskWithout(mask: Outline, other: Outline): Outline | null {
    const { left, top, width, pixels } = bitmapOf(mask);
    const bounds = boundsOf([other]);
    const [x1, y1] = [Math.max(left, Math.floor(bounds[0])), Math.max(top, Math.floor(bounds[1]))];
    const x2 = Math.min(left + width, Math.ceil(bounds[2]));
    const y2 = Math.min(top + pixels.length / width, Math.ceil(bounds[3]));
    if (x1 >= x2 || y1 >= y2) {
        return mask;
    }
    const isInOther = containsOf(other);
    for (let y = y1; y < y2; y++) {
        for (let x = x1; x < x2; x++) {
            const index = (y - top) * width + x - left;
            pixels[index] &&= Number(!isInOther(x + 0.5, y + 0.5));
        }
    }
    return maskOf({ left, top, width, pixels });
}

interface Bitmap {
    left: number;
    top: number;
    width: number;
    pixels: Uint8Array; // row by row, 0 or 1
}

/** The mask of what is set; null where nothing is. */
function maskOf({ left, top, width, pixels }: Bitmap): Outline | null {
    let [x1, y1, x2, y2] = [Infinity, Infinity, -1, -1];
    for (let index = pixels.indexOf(1); index >= 0; index = pixels.indexOf(1, index + 1)) {
        const [x, y] = [index % width, Math.floor(index / width)];
        [x1, y1, x2, y2] = [Math.min(x1, x), Math.min(y1, y), Math.max(x2, x), y];
    }
    if (y2 < 0) {
        return null;
    }
    const runs = [0]; // of background and object in turn
    for (let y = y1; y <= y2; y++) {
        for (let x = x1; x <= x2; x++) {
            if (pixels[y * width + x] !== (runs.length - 1) % 2) {
                runs.push(0);
            }
            runs[runs.length - 1]! += 1;
        }
    }
    return { type: 'mask', points: [...runs, left + x1, top + y1, left + x2, top + y2] };
}

function bitmapOf({ points }: Outline): Bitmap {
    const [left, top, right, bottom] = points.slice(-4) as [number, number, number, number];
    const width = right - left + 1;
    const pixels = new Uint8Array(width * (bottom - top + 1));
    let end = 0;
    points.slice(0, -4).forEach((run, index) => {
        pixels.fill(index % 2, end, end + run);
        end += run;
    });
    return { left, top, width, pixels };
}
