import { isAlike } from './keyframes';
import type { FollowedObject } from './objects';
import { OUTLINE_TYPES } from './outlines';
import type { Asked } from './plans';
import { ranges } from './summary';

const OWN_GROUP = 'give every object a group of its own (G, a click on it, G)';

/**
 * The objects that share label and group with another one on the current frame: people group what belongs together, too.
 * What is tracked of them cannot be told apart later.
 */
function inSharedGroups(
    { everything, frame, isMachineMade }: Asked,
    objects: readonly FollowedObject[],
): FollowedObject[] {
    const shapes = everything.shapes.filter((each) => each.frame === frame && OUTLINE_TYPES.includes(each.type));
    return objects.filter(({ kind, source }) => {
        if (kind !== 'shape' || !source.group) {
            return false; // without a group it gets one
        }
        const isMade = isMachineMade(source, source); // what a person drew over it is the same object
        return shapes.some(
            (other) =>
                other.clientID !== source.clientID && isAlike(other, source) && isMachineMade(other, other) === isMade,
        );
    });
}

/** @throws Error a sentence, where such objects were tracked before: that cannot be replaced, and would be there twice */
export function refuseTwice(asked: Asked, objects: readonly FollowedObject[], frames: readonly number[]): void {
    const sharing = inSharedGroups(asked, objects);
    const made = asked.everything.shapes.filter(
        (shape) =>
            frames.includes(shape.frame) &&
            asked.isMachineMade(shape, shape) &&
            sharing.some(({ source }) => isAlike(shape, source)),
    );
    if (made.length) {
        throw new Error(
            `Several objects on frame ${asked.frame} have the same label and group, and were tracked already, on frame ` +
                `${ranges(made.map(({ frame }) => frame))}: it is unclear which shape there is of which object. Undo that ` +
                `run, or delete what it drew; then ${OWN_GROUP}.`,
        );
    }
}

export function tellSharedGroups(asked: Asked, objects: readonly FollowedObject[]): void {
    if (inSharedGroups(asked, objects).length) {
        asked.notify(
            'warning',
            `Several objects on frame ${asked.frame} have the same label and group, and what is tracked of them has, too: it ` +
                `cannot be told apart later, nor corrected. Rather cancel or undo this, and first ${OWN_GROUP}.`,
        );
    }
}
