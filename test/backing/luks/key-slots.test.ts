/** Key slots: added and removed, in an order that no crash can make harmful. */
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { createImage } from "../../../src/backing/create.ts"
import { nodeCryptography } from "../../../src/backing/host/node-cryptography.ts"
import { addSlot, removeSlots } from "../../../src/backing/luks/change-slots.ts"
import { writeVolume } from "../../../src/backing/luks/raw-luks.ts"
import { unlockVolume } from "../../../src/backing/luks/volume.ts"
import { openImage } from "../../../src/backing/open.ts"
import { activeKeySlots, addKeySlot, removeKeySlot } from "../../../src/backing/operations/key-slots.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const cryptography = { ...nodeCryptography, countIterations: () => 1 }
const encryption = { passphrase: "first", cipher: "aes-128", mode: "cbc", iterTime: 1 } as const

function newFile(): MemoryFile {
  const file = new MemoryFile({ path: "luks" })
  writeVolume(file, { size: 4096, encryption }, cryptography)
  return file
}

function areaOf(file: MemoryFile) {
  return { file, offset: 0, length: file.size() }
}

function slotThat(passphrase: string, file: MemoryFile): number | undefined {
  try {
    return unlockVolume(areaOf(file), { passphrase, cryptography }).slot
  } catch {
    return undefined
  }
}

/** Stops everything at its n-th write, as a crash does. */
class CrashingFile extends MemoryFile {
  writes = Number.POSITIVE_INFINITY

  override writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    if (this.writes-- <= 0) throw new Error("crash")
    super.writeFrom(buffer, start, length, offset)
  }
}

/** Whether slot 0 has got another passphrase before the crash. */
function replaces(file: MemoryFile): boolean {
  try {
    return addSlot(areaOf(file), { passphrase: "first", newPassphrase: "second", slot: 0, force: true }, cryptography) === 0
  } catch (error) {
    expect(String(error)).toBe("Error: crash")
    return false
  }
}

describe("key slots", () => {
  for (const format of ["qcow2", "luks"] as const) {
    it(`QC-LUKS-05 ${format}: an added passphrase opens the image, a removed one no longer does, and the data stays`, () => {
      const path = join(temporaryDirectory(), "image")
      createImage(path, { format, size: 1 << 20, encryption })
      const disk = openImage(path, { format, passphrase: "first" })
      disk.pwrite(new Uint8Array(5000).fill(7), 1000)
      disk.close()
      expect(addKeySlot(path, { passphrase: "first", newPassphrase: "second", iterTime: 1 })).toBe(1)
      expect(addKeySlot(path, { passphrase: "second", newPassphrase: new Uint8Array([0, 255]), slot: 7, iterTime: 1 })).toBe(7)
      expect(activeKeySlots(path)).toEqual([0, 1, 7])
      expect(removeKeySlot(path, { passphrase: "first" })).toEqual([0])
      expect(removeKeySlot(path, { slot: 1 })).toEqual([1])
      for (const passphrase of ["first", "second"]) expect(() => openImage(path, { format, passphrase })).toThrow(/passphrase is wrong/)
      using opened = openImage(path, { format, passphrase: new Uint8Array([0, 255]) })
      const bytes = new Uint8Array(5000)
      opened.pread(bytes, 1000)
      expect(bytes.every((byte) => byte === 7)).toBe(true)
      expect(() => addKeySlot(path, { passphrase: "first", newPassphrase: "x" })).toThrow(/has it open for writing/)
    })
  }

  it("QC-LUKS-05 the last slot is removed only by force; an active slot is not overwritten; an inactive one cannot be removed", () => {
    const file = newFile()
    const area = areaOf(file)
    expect(() => removeSlots(area, { passphrase: "first" }, cryptography)).toThrow(/nobody could open the image any more/)
    expect(() => removeSlots(area, { passphrase: "other" }, cryptography)).toThrow(/passphrase is wrong/)
    expect(() => removeSlots(area, { slot: 3 }, cryptography)).toThrow(/slot 3 is not active/)
    expect(() => removeSlots(area, {}, cryptography)).toThrow(/give the number of the key slot to remove, or its passphrase/)
    expect(() => addSlot(area, { passphrase: "first", newPassphrase: "b", slot: 0 }, cryptography)).toThrow(/slot 0 is active already/)
    for (let slot = 1; slot < 8; slot++) expect(addSlot(area, { passphrase: "first", newPassphrase: "first" }, cryptography)).toBe(slot)
    expect(() => addSlot(area, { passphrase: "first", newPassphrase: "b" }, cryptography)).toThrow(/all 8 key slots are active/)
    expect(removeSlots(area, { passphrase: "first", force: true }, cryptography)).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
    expect(slotThat("first", file)).toBe(undefined)
  })

  it("QC-LUKS-05 removal by slot and passphrase needs both to match; by force the material of an inactive slot is overwritten", () => {
    const file = newFile()
    const area = areaOf(file)
    addSlot(area, { passphrase: "first", newPassphrase: "second" }, cryptography)
    expect(() => removeSlots(area, { slot: 0, passphrase: "second" }, cryptography)).toThrow(/it opens none of the active key slots \(0\)/)
    expect(() => removeSlots(area, { slot: 4, passphrase: "second", force: true }, cryptography)).toThrow(/slot 4 is not active/)
    expect(removeSlots(area, { slot: 0, passphrase: "first" }, cryptography)).toEqual([0])
    const material = (): string => Buffer.from(file.toBytes().subarray(4096, 4608)).toString("hex")
    const before = material()
    expect(removeSlots(area, { slot: 0, force: true }, cryptography)).toEqual([0])
    expect(material()).not.toBe(before)
    expect(() => removeSlots(area, { slot: 1 }, cryptography)).toThrow(/nobody could open the image any more/)
    expect([slotThat("first", file), slotThat("second", file)]).toEqual([undefined, 1])
  })

  it("QC-LUKS-05 by force the only slot gets another passphrase; a crash at any write leaves the old one or the new one", () => {
    const bytes = newFile().toBytes()
    for (let writes = 0; ; writes++) {
      const file = new CrashingFile({ path: "luks" })
      file.write(bytes, 0)
      file.writes = writes
      const isDone = replaces(file)
      file.writes = Number.POSITIVE_INFINITY
      const opening = ["first", "second"].filter((passphrase) => slotThat(passphrase, file) !== undefined)
      expect(opening, `${writes} writes`).not.toEqual([])
      if (!isDone) continue
      expect([opening, slotThat("second", file)]).toEqual([["second"], 0])
      break
    }
  }, 120_000)

  it("QC-LUKS-05 by force one of all eight slots gets another passphrase, and the others keep theirs", () => {
    const file = newFile()
    for (let other = 0; other < 7; other++) addSlot(areaOf(file), { passphrase: "first", newPassphrase: "other" }, cryptography)
    expect(addSlot(areaOf(file), { passphrase: "other", newPassphrase: "second", slot: 0, force: true }, cryptography)).toBe(0)
    expect(["first", "second", "other"].map((passphrase) => slotThat(passphrase, file))).toEqual([undefined, 0, 1])
  })

  it("QC-LUKS-05 a removed slot's key material and salt are overwritten", () => {
    const file = newFile()
    const before = file.toBytes()
    addSlot(areaOf(file), { passphrase: "first", newPassphrase: "second" }, cryptography)
    removeSlots(areaOf(file), { slot: 0 }, cryptography)
    const after = file.toBytes()
    expect(Buffer.from(after.subarray(4096, 4608)).equals(before.subarray(4096, 4608))).toBe(false)
    expect([...after.subarray(216, 248)]).toEqual([...new Uint8Array(32)])
  })

  it("QC-LUKS-05 a crash at any write of an addition or a removal leaves the old slots or the new ones", () => {
    for (let writes = 0; ; writes++) {
      const file = new CrashingFile({ path: "luks" })
      writeVolume(file, { size: 4096, encryption }, cryptography)
      file.writes = writes
      try {
        addSlot(areaOf(file), { passphrase: "first", newPassphrase: "second" }, cryptography)
        removeSlots(areaOf(file), { slot: 0 }, cryptography)
        expect(writes).toBe(6)
        expect([slotThat("first", file), slotThat("second", file)]).toEqual([undefined, 1])
        return
      } catch (error) {
        expect(String(error)).toBe("Error: crash")
      }
      file.writes = Number.POSITIVE_INFINITY
      // Material, slot and state are written, then state, slot and material.
      expect([writes, slotThat("first", file), slotThat("second", file)]).toEqual([
        writes, writes <= 3 ? 0 : undefined, writes < 3 ? undefined : 1,
      ])
    }
  })
})
