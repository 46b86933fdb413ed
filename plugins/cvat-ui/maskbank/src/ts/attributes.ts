import type { Attribute, Job, Keyframe, Shape } from './cvat-types';

type Labels = Job['labels'];

/** The attributes of a shape that a person set: CVAT gives a new one the defaults, which say nothing of its object. */
export function setAttributes({ attributes }: Pick<Shape, 'attributes'>, labels: Labels): Attribute[] {
    const known = labels.flatMap((label) => label.attributes);
    return attributes.filter(({ spec_id, value }) => known.find(({ id }) => id === spec_id)?.defaultValue !== value);
}

/** Tells the attributes apart that may change along a track. */
export function isMutable(labels: Labels): (attribute: Attribute) => boolean {
    const attributes = labels.flatMap((label) => label.attributes);
    const mutable = new Set(attributes.filter((each) => each.mutable).map(({ id }) => id));
    return ({ spec_id }) => mutable.has(spec_id);
}

/** Attributes with others in the place of those of the same kind. */
export function replaced(attributes: readonly Attribute[], others: readonly Attribute[]): Attribute[] {
    const values = new Map([...attributes, ...others].map(({ spec_id, value }) => [spec_id, value]));
    return [...values].map(([spec_id, value]) => ({ spec_id, value }));
}

/** The attributes of a shape, those of others where it has CVAT's defaults only. */
export function inherited(shape: Pick<Shape, 'attributes'>, others: readonly Attribute[], labels: Labels): Attribute[] {
    return replaced(replaced(shape.attributes, others), setAttributes(shape, labels));
}

/** What stays the same along a track that shapes become: what one of them says of it, and else what others say. */
export function fixedAttributes(
    shape: Pick<Shape, 'attributes'>,
    others: readonly Pick<Shape, 'attributes'>[],
    labels: Labels,
): Attribute[] {
    const changes = isMutable(labels);
    const said = others.flatMap((each) => setAttributes(each, labels)).reverse(); // what comes first counts
    return inherited(shape, said, labels).filter((each) => !changes(each));
}

/** What a person set on a shape that becomes part of a track, where that always has another value. */
export function lostAttributes(
    shape: Pick<Shape, 'attributes'>,
    fixed: readonly Attribute[],
    labels: Labels,
): Attribute[] {
    const changes = isMutable(labels);
    return without(setAttributes(shape, labels), fixed).filter((each) => !changes(each));
}

/** Those attributes that others do not have, or with another value. */
export function without(attributes: readonly Attribute[], others: readonly Attribute[]): Attribute[] {
    const isThere = ({ spec_id, value }: Attribute): boolean =>
        others.some((other) => other.spec_id === spec_id && other.value === value);
    return attributes.filter((each) => !isThere(each));
}

/**
 * The attributes of shapes as the keyframes of one track, where each holds on to the next one. A program copied them
 * onto its shapes from an outline that may have been changed since: these get what persons said last before them, and
 * what a person changed on the shape itself, which holds on its frame only.
 *
 * @param changes what persons changed on shapes of a program's, also where that is nothing
 * @param start what holds before the first one
 */
export function heldAttributes<Drawing extends Pick<Keyframe, 'frame' | 'attributes'>>(
    shapes: readonly Drawing[],
    changes: ReadonlyMap<Drawing, readonly Attribute[]>,
    start: readonly Attribute[],
): Map<Drawing, Attribute[]> {
    let held = start;
    let shown: readonly Attribute[] = [];
    const found = new Map<Drawing, Attribute[]>();
    for (const shape of [...shapes].sort((one, other) => one.frame - other.frame)) {
        const changed = changes.get(shape);
        const all = replaced(held, changed ?? shape.attributes);
        found.set(shape, changed ? without(all, shown) : all);
        held = changed ? held : all;
        shown = all;
    }
    return found;
}
