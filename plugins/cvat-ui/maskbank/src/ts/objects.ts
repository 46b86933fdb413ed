import type { Collection, Keyframe, ObjectState, Shape, Track } from './cvat-types';
import { OUTLINE_TYPES, outlineOf } from './outlines';
import type { Target } from './tracking';

/** One object that the annotator wants to be tracked, as CVAT has it. */
export type FollowedObject = Target & (FollowedShape | FollowedTrack);

export interface FollowedShape {
    kind: 'shape';
    source: Shape;
    becomesTrack: boolean;
    group: number; // for what is created
    others: ReadonlyMap<number, Shape>; // shapes of the same object, by frame
}

export interface FollowedTrack {
    kind: 'track';
    source: Track;
}

export interface Surroundings {
    from: number;
    frames: readonly number[]; // to track through, in order
    everything: Collection; // of the job
    states: readonly ObjectState[]; // on frame `from`
    convert: boolean; // shapes to tracks
    useSeeds: boolean;
    /** Whether a program made it, and no person changed it since. */
    isMachineMade(object: Shape | Track, drawn: Shape | Keyframe): boolean;
}

export interface Followed {
    objects: FollowedObject[];
    unclear: boolean; // whether shapes on other frames were left alone, as it is unclear whose they are
}

/**
 * The objects of a collection, with what else the job knows of them.
 *
 * Shapes with the same label and group, of whatever type, are one object if there is at most one of them on each frame:
 * a label whose objects are not grouped has one object, then. Otherwise it is unclear which is which, and each shape is
 * an object for itself; without a group it gets one of its own, so that it will be clear the next time. `maskbank job`
 * has the same rule (tests/cases/same_object.json), but takes several shapes of a group on one frame as the parts of
 * one object, which cannot be joined here, as nothing here turns shapes into pixels.
 *
 * A shape that becomes a track leaves the masks that persons made of its object alone: CVAT has no tracks of masks.
 */
export function followedObjects(collection: Collection, around: Surroundings): Followed {
    const { from, frames, everything } = around;
    const visited = new Set([from, ...frames]);
    let lastGroup = 0;
    for (const { group } of [...everything.shapes, ...everything.tracks]) {
        lastGroup = Math.max(lastGroup, group);
    }
    let unclear = false;
    const shapes = collection.shapes.map((source): FollowedObject => {
        const becomesTrack = around.convert && source.type !== 'mask';
        const alike = everything.shapes.filter(
            ({ frame, label_id, type, group }) =>
                visited.has(frame) &&
                OUTLINE_TYPES.includes(type) &&
                label_id === source.label_id &&
                group === source.group,
        );
        const elsewhere = alike.filter(({ frame }) => frame !== from);
        const clear = new Set(alike.map(({ frame }) => frame)).size === alike.length;
        unclear ||= !clear && elsewhere.length > 0;
        const isByPerson = (shape: Shape): boolean => !around.isMachineMade(shape, shape);
        const others = clear
            ? elsewhere.filter((shape) => !(becomesTrack && shape.type === 'mask' && isByPerson(shape)))
            : [];
        const byPersons = others.filter(isByPerson);
        return {
            kind: 'shape',
            source,
            becomesTrack,
            group: clear || becomesTrack || source.group ? source.group : ++lastGroup,
            others: new Map(others.map((shape) => [shape.frame, shape])),
            start: outlineOf(source),
            annotated: new Map(byPersons.map((shape) => [shape.frame, outlineOf(shape)])),
            absent: new Set(),
        };
    });
    const tracks = collection.tracks.flatMap((source): FollowedObject[] => {
        const state = around.states.find(({ clientID }) => clientID === source.clientID);
        if (!state || state.outside) {
            return [];
        }
        const start = outlineOf({ type: state.shapeType, points: state.points, rotation: state.rotation });
        return [{ kind: 'track', source, start, ...annotatedKeyframes(source, around) }];
    });
    return { objects: [...shapes, ...tracks], unclear };
}

/** What persons said of a track on the frames to come: nothing where all of it is to be tracked anew. */
function annotatedKeyframes(track: Track, around: Surroundings): Pick<Target, 'annotated' | 'absent'> {
    const first = around.frames[0] ?? around.from;
    const keyframes = around.useSeeds
        ? track.shapes
              .filter((keyframe) => !around.isMachineMade(track, keyframe))
              // A track that ends right behind the frame from which it is to be tracked on: its end moves.
              .filter((keyframe) => !(keyframe.outside && keyframe.frame === first && first > around.from))
              .sort((one, other) => one.frame - other.frame)
        : [];
    const absent = around.frames.filter((frame) => keyframes.findLast((each) => each.frame <= frame)?.outside);
    const annotated = keyframes.filter(({ frame }) => around.frames.includes(frame));
    return {
        annotated: new Map(annotated.map((each) => [each.frame, each.outside ? null : outlineOf(each)])),
        absent: new Set(absent),
    };
}
