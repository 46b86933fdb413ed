import { replaced, without } from './attributes';
import type { Attribute, Keyframe, ObjectState, Shape, Track } from './cvat-types';
import { asType, outlineOf } from './outlines';

const ROUNDED = 0.01; // pixels: the server may round what it saves

export type Named = Pick<Shape, 'label_id' | 'group'>;

/** Whether shapes or tracks have the same label and group. */
export function isAlike(one: Named, other: Named): boolean {
    return one.label_id === other.label_id && one.group === other.group;
}

/** What is drawn of a shape, as one of another type; without a change of type it stays rotated. */
export function drawnAs(shape: Shape, type: string): Pick<Keyframe, 'type' | 'points' | 'rotation'> {
    const { points, rotation } = shape;
    return shape.type === type ? { type, points, rotation } : { ...asType(outlineOf(shape), type), rotation: 0 };
}

/** What an object looks like on a frame, as a keyframe; attributes hold on from the one before. */
export function keyframeOf(
    { shapeType, points, rotation, occluded, outside, zOrder }: ObjectState,
    frame: number,
): Keyframe {
    return {
        ...{ frame, type: shapeType, points: points ?? [], rotation: rotation ?? 0 },
        ...{ occluded, outside, z_order: zOrder, attributes: [] },
    };
}

/** The same track with other keyframes; partly a program's work, unless all of it was so before. */
export function withKeyframes(track: Track, keyframes: readonly Keyframe[]): Track {
    const ordered = [...keyframes].sort(inOrder);
    return {
        ...withoutIds(track),
        frame: ordered[0]?.frame ?? track.frame,
        source: track.source === 'auto' ? 'auto' : 'semi-auto',
        shapes: ordered.map(withoutIds),
    };
}

/** A copy that CVAT takes for something new. */
export function withoutIds<Drawing extends { id?: number; clientID?: number }>(
    drawing: Drawing,
): Omit<Drawing, 'id' | 'clientID'> {
    const { id: _, clientID: __, ...rest } = drawing;
    return rest;
}

export function inOrder(one: Pick<Keyframe, 'frame'>, other: Pick<Keyframe, 'frame'>): number {
    return one.frame - other.frame;
}

/** The keyframes that persons outlined, or said of that the object is gone. */
export function outlinedByPersons(track: Track, isMade: (keyframe: Keyframe) => boolean): Keyframe[] {
    const copies = copiesIn(track);
    return track.shapes.filter((keyframe) => !isMade(keyframe) && !copies.has(keyframe));
}

/**
 * The keyframes that only say that the object is occluded, on another layer or otherwise described from there on: CVAT
 * copies into them what the track shows there, which nobody drew. Of a polygon they are known where it stays as it is.
 */
function copiesIn({ shapes }: Track): Set<Keyframe> {
    const ordered = [...shapes].sort(inOrder);
    const copies = new Set<Keyframe>();
    let held: Attribute[] = [];
    ordered.forEach((keyframe, index) => {
        const left = ordered[index - 1];
        const describes =
            keyframe.occluded !== left?.occluded ||
            keyframe.z_order !== left.z_order ||
            without(keyframe.attributes, held).length > 0;
        if (left && describes && isBetween(keyframe, left, ordered[index + 1])) {
            copies.add(keyframe);
        }
        held = replaced(held, keyframe.attributes);
    });
    return copies;
}

/** Whether a keyframe shows what CVAT would show there without it. */
function isBetween(keyframe: Keyframe, left: Keyframe, right: Keyframe | undefined): boolean {
    const isLinear = keyframe.type === 'rectangle' || keyframe.type === 'ellipse';
    const part = right && isLinear ? (keyframe.frame - left.frame) / (right.frame - left.frame) : 0;
    const [own = [], before = []] = [keyframe.points, left.points];
    const after = right?.points ?? before;
    const isThere = (number: number, index: number): boolean =>
        Math.abs(number - before[index]! - part * ((after[index] ?? 0) - before[index]!)) < ROUNDED;
    const isAsSeen = !left.outside && !keyframe.outside && keyframe.rotation === left.rotation;
    return isAsSeen && own.length === before.length && own.every(isThere);
}
