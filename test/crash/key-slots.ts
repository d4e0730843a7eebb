/**
 * Power cuts while the key slots of a LUKS volume change, raw or in a qcow2 image: whoever could open it still can, whoever is given or
 * loses a passphrase can or cannot, and the volume never stays without one.
 */
import { BackingError } from "../../src/backing/backing.ts"
import type { ImageFile } from "../../src/backing/image-file.ts"
import { addSlot, removeSlots, type WritableArea } from "../../src/backing/luks/change-slots.ts"
import { writeVolume } from "../../src/backing/luks/raw-luks.ts"
import { unlockVolume } from "../../src/backing/luks/volume.ts"
import { createQcow2 } from "../../src/backing/qcow2/create.ts"
import { luksArea } from "../../src/backing/qcow2/encryption.ts"
import { readHeader } from "../../src/backing/qcow2/format/parse-header.ts"
import { sha256 } from "../support/golden.ts"
import { MemoryFile } from "../support/memory-file.ts"
import type { Rng } from "../support/rng.ts"
import { ENCRYPTION, PASSPHRASE, quickCryptography as cryptography } from "../support/shapes.ts"
import { type Crash, type CrashStart, recordFiles, type Since, tryCrashes } from "./crashed-files.ts"

interface KeyStage extends Since {
  /** Open the volume. */
  readonly sure: readonly string[]
  /** Open it, or not. */
  readonly maybe: readonly string[]
  /** Do not. */
  readonly gone: readonly string[]
}

/** Whether a passphrase opens a volume with these bytes: a try takes 10 ms or more, and many crashes leave the same. */
type Known = Map<string, boolean>

type Change =
  | { readonly kind: "add"; readonly slot?: number; readonly replaced?: string }
  | { readonly kind: "remove"; readonly passphrase: string }

/** Runs one round. Returns the points tried. @throws Error that names the crash point */
export function keySlotCrashRound(rng: Rng, { changes, share }: { readonly changes: number; readonly share: number }): number {
  const isRaw = rng.chance(0.5)
  const base = new MemoryFile({ path: "luks" })
  if (isRaw) writeVolume(base, { size: 4096, encryption: ENCRYPTION }, cryptography)
  else createQcow2(base, { size: 4096, clusterSize: 4096, encryption: ENCRYPTION }, cryptography)
  const start: CrashStart = { base, rng, share }
  const { file } = recordFiles(start)
  const area = areaOf(file, isRaw)
  // By passphrase.
  const slots = new Map([[PASSPHRASE, 0]])
  const gone: string[] = []
  const stages: KeyStage[] = [{ from: 0, doing: "nothing", sure: [PASSPHRASE], maybe: [], gone: [] }]
  for (let index = 0; index < changes; index++) {
    const change = drawChange(rng, slots)
    const added = `passphrase ${index}`
    const lost = change.kind === "remove" ? change.passphrase : change.replaced
    const doing = `${index}: ${change.kind} ${change.kind === "add" ? `${added} in the place of ${lost ?? "none"}` : lost}`
    const sure = [...slots.keys()].filter((one) => one !== lost)
    stages.push({ from: file.log.length, doing, sure, maybe: [added, ...(lost === undefined ? [] : [lost])], gone: [...gone] })
    perform(area, change, { added, by: [...slots.keys()][0] ?? "", slots })
    if (lost !== undefined) gone.push(lost)
    stages.push({ from: file.log.length, doing: `after ${doing}`, sure: [...slots.keys()], maybe: [], gone: [...gone] })
  }
  const known: Known = new Map()
  return tryCrashes(file.log, stages, start, (crash, stage) => expectOpeners(crash, stage, { isRaw, known }))
}

/** The last passphrase stays, or gets another one in its place. */
function drawChange(rng: Rng, slots: ReadonlyMap<string, number>): Change {
  const [passphrase, slot] = rng.pick([...slots])
  if (slots.size > 1 && rng.chance(0.4)) return { kind: "remove", passphrase }
  return rng.chance(0.4) ? { kind: "add", slot, replaced: passphrase } : { kind: "add" }
}

interface Passphrases {
  readonly added: string
  /** Opens the volume now. */
  readonly by: string
  readonly slots: Map<string, number>
}

function perform(area: WritableArea, change: Change, { added, by, slots }: Passphrases): void {
  if (change.kind === "remove") {
    removeSlots(area, { passphrase: change.passphrase }, cryptography)
    slots.delete(change.passphrase)
    return
  }
  const place = change.slot === undefined ? {} : { slot: change.slot, force: true }
  const slot = addSlot(area, { passphrase: by, newPassphrase: added, iterTime: 1, ...place }, cryptography)
  if (change.replaced !== undefined) slots.delete(change.replaced)
  slots.set(added, slot)
}

function areaOf(file: ImageFile, isRaw: boolean): WritableArea {
  const area = isRaw ? { offset: 0, length: file.size() } : luksArea(file, readHeader(file))
  if (area === undefined) throw new Error("the image has no LUKS header")
  return { ...area, file }
}

function expectOpeners({ file }: Crash, { sure, maybe, gone }: KeyStage, { isRaw, known }: { isRaw: boolean; known: Known }): void {
  const area = areaOf(file, isRaw)
  const bytes = sha256(file.toBytes().subarray(area.offset, area.offset + area.length))
  const opens = (passphrase: string): boolean => {
    const key = `${passphrase} ${bytes}`
    const found = known.get(key) ?? isOpenedBy(area, passphrase)
    known.set(key, found)
    return found
  }
  const shut = sure.find((passphrase) => !opens(passphrase))
  if (shut !== undefined) throw new Error(`"${shut}" opens the volume no more`)
  const open = gone.find(opens)
  if (open !== undefined) throw new Error(`"${open}", which was taken away, opens the volume`)
  if (sure.length === 0 && !maybe.some(opens)) throw new Error("nothing opens the volume")
}

function isOpenedBy(area: WritableArea, passphrase: string): boolean {
  try {
    unlockVolume(area, { passphrase, cryptography })
    return true
  } catch (error) {
    if (error instanceof BackingError && error.code === "permission") return false
    throw error
  }
}
