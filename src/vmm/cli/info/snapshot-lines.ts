/** The snapshots of an image as `qemu-img snapshot -l` and `qemu-img info` list them. */
import { formatShortSize } from "../format.ts"
import type { SnapshotFacts } from "./image-facts.ts"

/** The table with its header; no lines without snapshots. Times are local. */
export function snapshotLines(snapshots: readonly SnapshotFacts[]): string[] {
  if (snapshots.length === 0) return []
  const head = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT"
  return ["Snapshot list:", head, ...snapshots.map(lineOf)]
}

function lineOf(snapshot: SnapshotFacts): string {
  const date = new Date(snapshot["date-sec"] * 1000)
  const local = new Date(date.getTime() - date.getTimezoneOffset() * 60_000)
  const columns = [
    formatShortSize(snapshot["vm-state-size"]).padStart(8),
    local.toISOString().replace("T", " ").slice(0, 19).padStart(20),
    clockOf(snapshot["vm-clock-sec"], snapshot["vm-clock-nsec"]).padStart(13),
    String(snapshot.icount ?? "").padStart(11),
  ]
  return `${snapshot.id.padEnd(9)} ${snapshot.name.padEnd(16)} ${columns.join("")}`
}

/** Hours, minutes, seconds and milliseconds. */
function clockOf(seconds: number, nanoseconds: number): string {
  const two = (value: number): string => String(value).padStart(2, "0")
  const milliseconds = String(Math.floor(nanoseconds / 1_000_000)).padStart(3, "0")
  return `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}.${milliseconds}`
}
