"""What a job's run says at its end."""

from collections.abc import Iterable, Sequence

from maskbank.jobs.objects import without_group
from maskbank.jobs.plan import AnnotateOptions, JobToTrack, Results
from maskbank.jobs.stretches import Stretch, found_in, frames_of
from maskbank.jobs.uploads import Compared, count
from maskbank.jobs.wording import counted, ranges
from maskbank.review.marks import UNSURE_BELOW
from maskbank.tracking.suggestions import next_step, sureness


def report(
    outlined: JobToTrack,
    parts: Sequence[Stretch],
    results: Results,
    differences: Compared,
    hard: Iterable[tuple[int, int]],
    options: AnnotateOptions,
) -> str:
    """What was done, and what an annotator should look at; `hard`: see `hard_boxes`."""
    tracked = found_in(parts)
    made, missing, outdated = count(results.made), count(differences.missing), count(differences.others)
    frames = len({frame for found in results.found for frame in found})
    kind = "track" if options.form == "track" else "shape"
    done = "would be uploaded" if options.dry_run else "uploaded"
    lines = [
        f"Job {outlined.job.id}: {counted(len(tracked), 'object')} tracked on {counted(frames, 'frame')}, "
        f"{counted(made, kind)} made, {missing} {done}"
        + (f", {made - missing} there already." if made > missing else ".")
    ]
    if outdated:
        first = "would be deleted" if options.replaces else "would have to be deleted first (--replace)"
        done = first if options.dry_run else "deleted"
        lines.append(f"  {counted(outdated, 'automatic annotation')} of earlier runs {done}.")
    if left := count(outlined.leftovers):
        lines.append(
            f"  {counted(left, 'automatic annotation')} of earlier runs left, of labels of which nothing is outlined "
            "now; --replace deletes them."
        )
    for slot in tracked:
        drawn, found = outlined.objects[slot], results.found[slot]
        unsure = [frame for frame, answer in found.items() if answer.confidence < UNSURE_BELOW]
        gone = [frame for frame, answer in found.items() if answer.mask is None]
        by_track = drawn.interpolated(outlined.job.frames)
        each_kind = (("unsure", unsure), ("gone", gone), ("left to a person's track", by_track))
        remarks = [f"{what} on {ranges(which)}" for what, which in each_kind if which]
        otherwise = "sure on all frames" if found else "outlined on all frames"
        lines.append(f"  {drawn.name}: {'; '.join(remarks) or otherwise}")
    for (label, frame), group in sorted(outlined.drawn_over.items()):
        lines.append(
            f"  {label} on {frame} has no group; drawn over a result of group {group}, it counts as of that one."
        )
    for drawn in (outlined.objects[slot] for slot in tracked):
        if len(drawn.seeds) > 1 and not (drawn.group or drawn.is_track):
            where = ranges(list(drawn.seeds))
            lines.append(
                f"  {drawn.name}: what is outlined on {where} has no group and was taken for one object; groups tell "
                "several apart."
            )
    if boxes := ", ".join(f"{outlined.objects[slot].name} on {frame}" for slot, frame in sorted(hard)):
        lines.append(f"  Hard to make out in its box: {boxes}; a mask or polygon there says more.")
    for drawn in without_group(outlined.objects):
        lines.append(
            f"  {drawn.name}, outlined on {ranges(list(drawn.seeds))}, has no group: if it is one of those that have, "
            "edit that one's automatic shape there instead, and run this again with --replace."
        )
    if options.form == "track" and made:
        lines.append("  The tracks are off on the frames that people outlined, whose shapes stay as they are.")
    return "\n".join(lines)


def what_next(outlined: JobToTrack, parts: Sequence[Stretch], results: Results) -> str:
    """Which frame to outline next, and which objects on it, as the page of the run says it: among those tracked."""
    frames = frames_of(parts)
    found = {slot: results.found[slot] for slot in found_in(parts)}
    confidence = {
        slot: [sureness(own[frame].confidence, own[frame].visible) if frame in own else None for frame in frames]
        for slot, own in found.items()
    }
    return next_step({slot: outlined.objects[slot].name for slot in confidence}, confidence, frames)
