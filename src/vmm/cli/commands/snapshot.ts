/** `vioblk snapshot`: lists, takes, applies and deletes the snapshots inside an image. Exit codes as those of `qemu-img snapshot`. */
import { BackingError } from "../../../backing/backing.ts"
import { openImage } from "../../../backing/open.ts"
import { RawBacking } from "../../../backing/raw.ts"
import type { Qcow2Image } from "../../../backing/qcow2/image.ts"
import type { SnapshotInfo } from "../../../backing/qcow2/snapshots/snapshots.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { imageOf } from "../image-name.ts"
import type { SnapshotFacts } from "../info/image-facts.ts"
import { snapshotLines } from "../info/snapshot-lines.ts"
import { print, printJson } from "../output.ts"

const ACTIONS = ["list", "create", "apply", "delete"] as const
type Action = (typeof ACTIONS)[number]

export async function snapshot(given: Arguments): Promise<number> {
  const actions = ACTIONS.filter((action) => given.flag(action))
  if (actions.length > 1 || ACTIONS.some((action) => given.texts(action).length > 1)) {
    throw new UsageError("give one of -l, -a, -c and -d, and give it once")
  }
  const [action = "list"] = actions
  const { path, format, passphrase } = imageOf(given)
  const isList = action === "list"
  using disk = openImage(path, {
    passphrase, readOnly: isList, ignoreLocks: isList && given.flag("force-share"), ...(format !== undefined && { format }),
  })
  if (disk instanceof RawBacking) {
    if (isList) return 0
    throw new BackingError("unsupported", "a raw image has no snapshots", { path })
  }
  if (isList) show(disk.snapshots.list(), given.json)
  else act(disk, action, given.text(action) ?? "")
  return 0
}

function act({ snapshots, path }: Qcow2Image, action: Exclude<Action, "list">, name: string): void {
  if (action === "create") snapshots.create({ name })
  else if (action === "apply") snapshots.apply(name)
  else {
    // As in qemu-img, an ID is not accepted here, because a deletion cannot be undone.
    const found = snapshots.list().find((info) => info.name === name)
    if (found === undefined) throw new BackingError("not-found", `there is no snapshot with the name "${name}"`, { path })
    snapshots.delete(found.id)
  }
}

function show(list: readonly SnapshotInfo[], json: boolean): void {
  const facts = list.map(factsOf)
  if (json) printJson(facts)
  else for (const line of snapshotLines(facts)) print(line)
}

/** Under the names of `qemu-img info --output=json`. */
function factsOf({ id, name, date, vmClock, vmStateSize, icount }: SnapshotInfo): SnapshotFacts {
  return {
    "vm-clock-nsec": Number(vmClock % 1_000_000_000n),
    name,
    "date-sec": Math.floor(date / 1000),
    "date-nsec": (date % 1000) * 1_000_000,
    "vm-clock-sec": Number(vmClock / 1_000_000_000n),
    id,
    "vm-state-size": vmStateSize,
    ...(icount === undefined ? {} : { icount: Number(icount) }),
  }
}
