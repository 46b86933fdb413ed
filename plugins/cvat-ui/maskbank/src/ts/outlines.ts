/**
 * An object's outline as the tracker's protocol has it, in pixels:
 * rectangle [x1, y1, x2, y2]; polygon [x, y, ...]; ellipse [centre x, centre y, right x, top y];
 * mask [run lengths ..., left, top, right, bottom].
 */
export interface Outline {
    type: string;
    points: number[];
}

export const OUTLINE_TYPES = ['mask', 'polygon', 'ellipse', 'rectangle'];

/** Whether CVAT can draw an outline: cvat-core throws at others, in the middle of what it takes over. */
export function isWhole({ type, points }: Outline): boolean {
    const isOfBox = type === 'rectangle' || type === 'ellipse';
    const isEnough = isOfBox ? points.length === 4 : points.length >= 6; // of a mask two runs and its box
    const isEven = type !== 'polygon' || points.length % 2 === 0;
    return isEnough && isEven && points.every(Number.isFinite);
}

const ELLIPSE_CORNERS = 64; // of the polygon that stands for an ellipse

/**
 * The outline of a drawn object; of a rectangle or an ellipse that is rotated, which the protocol does not know, the
 * polygon. `unrotated` of the Python package does the same; tests/cases/rotated_shapes.json holds both to it.
 */
export function outlineOf(drawn: { type: string; points?: number[] | null; rotation?: number | null }): Outline {
    const outline = { type: drawn.type, points: [...(drawn.points ?? [])] };
    return drawn.rotation ? polygonOf(outline, drawn.rotation) : outline;
}

/**
 * An outline as one of another type: what an object is answered with is not always what its annotations are, and a
 * track in CVAT has one type.
 *
 * A rectangle is the bounding box, an ellipse the upright one with the same area moments. Without the image's pixels
 * there is no way from a mask or to one: where either is a mask, the outline stays as it is.
 */
export function asType(outline: Outline, type: string): Outline {
    if (outline.type === type || outline.type === 'mask' || type === 'mask') {
        return outline;
    }
    const polygon = polygonOf(outline, 0);
    if (type === 'polygon') {
        return polygon;
    }
    const [xs, ys] = [onAxis(polygon.points, 0), onAxis(polygon.points, 1)];
    return { type, points: type === 'rectangle' ? boundingBox(xs, ys) : ellipseLike(xs, ys) };
}

/** The upright box around outlines: left, top, right, bottom. */
export function boundsOf(outlines: readonly Outline[]): [number, number, number, number] {
    const corners = outlines.flatMap((outline) => {
        const [left, top, right, bottom] = outline.points.slice(-4) as [number, number, number, number];
        return outline.type === 'mask' ? [left, top, right + 1, bottom + 1] : polygonOf(outline, 0).points;
    });
    return boundingBox(onAxis(corners, 0), onAxis(corners, 1));
}

/** The polygon of a rectangle or an ellipse that is turned clockwise about its centre; other outlines as they are. */
function polygonOf({ type, points }: Outline, degrees: number): Outline {
    if (type !== 'rectangle' && type !== 'ellipse') {
        return { type, points };
    }
    const [a, b, c, d] = points as [number, number, number, number];
    const [x, y] = type === 'rectangle' ? [(a + c) / 2, (b + d) / 2] : [a, b];
    const corners = type === 'rectangle' ? cornersOfBox(c - x, d - y) : cornersOfEllipse(c - x, y - d);
    const angle = (degrees * Math.PI) / 180;
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    const turned = corners.flatMap(([right, down]) => [x + right * cos - down * sin, y + right * sin + down * cos]);
    return { type: 'polygon', points: turned };
}

/** From left-top clockwise, relative to the centre. */
function cornersOfBox(halfWidth: number, halfHeight: number): [number, number][] {
    return [
        [-halfWidth, -halfHeight],
        [halfWidth, -halfHeight],
        [halfWidth, halfHeight],
        [-halfWidth, halfHeight],
    ];
}

/** From the rightmost one clockwise, relative to the centre. */
function cornersOfEllipse(rx: number, ry: number): [number, number][] {
    return Array.from({ length: ELLIPSE_CORNERS }, (_, index) => {
        const angle = (2 * Math.PI * index) / ELLIPSE_CORNERS;
        return [Math.cos(angle) * rx, Math.sin(angle) * ry];
    });
}

/** Of points x, y, …: the x for axis 0, the y for axis 1. */
function onAxis(points: readonly number[], axis: 0 | 1): number[] {
    return points.filter((_, index) => index % 2 === axis);
}

function boundingBox(xs: readonly number[], ys: readonly number[]): [number, number, number, number] {
    return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** The points of the upright ellipse with the area moments of a polygon; of one without an area, that in its box. */
function ellipseLike(xs: readonly number[], ys: readonly number[]): number[] {
    const [left, top, right, bottom] = boundingBox(xs, ys);
    const fromLeft = xs.map((x) => x - left); // as moments lose precision far from the origin
    const fromTop = ys.map((y) => y - top);
    const areas = fromLeft.map((x, index) => (x * next(fromTop, index) - next(fromLeft, index) * fromTop[index]!) / 2);
    const [x, rx] = centreAndRadius(fromLeft, areas);
    const [y, ry] = centreAndRadius(fromTop, areas);
    if (rx > 0 && ry > 0) {
        return [left + x, top + y, left + x + rx, top + y - ry];
    }
    return [(left + right) / 2, (top + bottom) / 2, right, top];
}

/**
 * Along one axis, of the ellipse with the area moments of a polygon; the radius of an even ellipse is twice the
 * standard deviation.
 *
 * By Green's theorem, the moments are sums over the triangles that the edges form with the origin.
 *
 * @param along the corners' coordinates on that axis
 * @param areas of the triangles, with their sign
 */
function centreAndRadius(along: readonly number[], areas: readonly number[]): [number, number] {
    const area = sum(areas);
    const first = sum(areas.map((each, index) => (each * (along[index]! + next(along, index))) / 3));
    const second = sum(
        areas.map((each, index) => {
            const [one, other] = [along[index]!, next(along, index)];
            return (each * (one * one + one * other + other * other)) / 6;
        }),
    );
    const centre = first / area;
    return [centre, 2 * Math.sqrt(second / area - centre * centre)];
}

function next(numbers: readonly number[], index: number): number {
    return numbers[(index + 1) % numbers.length]!;
}

function sum(numbers: readonly number[]): number {
    return numbers.reduce((total, number) => total + number, 0);
}

export function sameOutline(one: Outline | null, other: Outline | null): boolean {
    return (
        one?.type === other?.type &&
        one?.points.length === other?.points.length &&
        (one?.points ?? []).every((number, index) => number === other?.points[index])
    );
}
