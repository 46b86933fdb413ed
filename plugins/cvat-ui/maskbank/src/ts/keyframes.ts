import type { Keyframe, Shape, Track } from './cvat-types';
import { asType, outlineOf } from './outlines';

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
