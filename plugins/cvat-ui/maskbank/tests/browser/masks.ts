/** CVAT's points of a mask as one number (0 or 1) for each pixel of an image. */
export function decodeMask(points: readonly number[], width: number, height: number): Uint8Array {
    const pixels = new Uint8Array(width * height);
    const [left, top, right] = points.slice(-4) as [number, number, number, number];
    let position = 0; // in the mask's box
    points.slice(0, -4).forEach((run, index) => {
        for (let end = position + run; position < end; position++) {
            const [row, column] = [Math.floor(position / (right - left + 1)), position % (right - left + 1)];
            pixels[(top + row) * width + left + column] = index % 2;
        }
    });
    return pixels;
}

/** Jaccard index of two masks. */
export function jaccard(one: Uint8Array, other: Uint8Array): number {
    let [common, all] = [0, 0];
    one.forEach((pixel, index) => {
        common += pixel & other[index]!;
        all += pixel | other[index]!;
    });
    return common / Math.max(1, all);
}
