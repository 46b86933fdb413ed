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

/** The outline of a drawn object; of one that is rotated, which the protocol does not know, the upright one around it. */
export function outlineOf(drawn: { type: string; points?: number[] | null; rotation?: number | null }): Outline {
    const points = [...(drawn.points ?? [])];
    if (!drawn.rotation || points.length !== 4) {
        return { type: drawn.type, points };
    }
    const [a, b, c, d] = points as [number, number, number, number];
    const angle = (drawn.rotation * Math.PI) / 180;
    const [cos, sin] = [Math.abs(Math.cos(angle)), Math.abs(Math.sin(angle))];
    if (drawn.type === 'ellipse') {
        const [rx, ry] = [c - a, b - d];
        return {
            type: 'ellipse',
            points: [a, b, a + Math.hypot(rx * cos, ry * sin), b - Math.hypot(rx * sin, ry * cos)],
        };
    }
    const [x, y, halfWidth, halfHeight] = [(a + c) / 2, (b + d) / 2, (c - a) / 2, (d - b) / 2];
    const [right, down] = [halfWidth * cos + halfHeight * sin, halfWidth * sin + halfHeight * cos];
    return { type: drawn.type, points: [x - right, y - down, x + right, y + down] };
}

export function sameOutline(one: Outline | null, other: Outline | null): boolean {
    return (
        one?.type === other?.type &&
        one?.points.length === other?.points.length &&
        (one?.points ?? []).every((number, index) => number === other?.points[index])
    );
}
