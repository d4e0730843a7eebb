/** Opening and making encrypted images by promises in Node: keys are derived on another thread. */
import { describe, expect, it } from "vitest"
import { nodeCryptography } from "../../../src/backing/host/node-cryptography.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { createDisk, openDisk } from "../../../src/backing/open-disk-on-node.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import { MemoryFile } from "../../support/memory-file.ts"

const QUICK = { passphrase: "golden", cipher: "aes-128", iterTime: 1 } as const

/** An image whose slot takes `iterations`. */
function image(iterations: number): MemoryFile {
  const file = new MemoryFile({ path: "luks" })
  createQcow2(file, { size: 1 << 20, encryption: QUICK }, { ...nodeCryptography, countIterations: () => iterations })
  return file
}

/** The turns of the event loop until `work` has settled. */
async function turnsOf(work: Promise<unknown>): Promise<number> {
  let turns = 0
  let isDone = false
  const count = (): void => {
    turns++
    if (!isDone) setImmediate(count)
  }
  setImmediate(count)
  await work.finally(() => (isDone = true))
  return turns
}

describe("openDisk and createDisk in Node", () => {
  it("QC-LUKS-05 the thread is free while a key is derived", async () => {
    expect(await turnsOf(openDisk(image(200_000), { passphrase: "golden" }))).toBeGreaterThan(2)
    const file = new MemoryFile({ path: "made" })
    expect(await turnsOf(createDisk(file, { size: 1 << 20, encryption: { ...QUICK, iterTime: 50 } }))).toBeGreaterThan(2)
    expect(openQcow2(file, { passphrase: "golden" }).size).toBe(1 << 20)
  })

  it("QC-LUKS-06 a signal ends a derivation, and leaves the source to the caller", async () => {
    const file = image(10)
    const bytes = file.toBytes()
    const start = Buffer.from(bytes).indexOf(Uint8Array.of(0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe))
    new DataView(bytes.buffer).setUint32(start + 208 + 4, 2 ** 20)
    const stopper = new AbortController()
    const source = MemoryFile.of(bytes)
    const opening = openDisk(source, { passphrase: "golden", signal: stopper.signal })
    await new Promise((resolve) => setImmediate(resolve))
    stopper.abort(new Error("enough"))
    // The stopped derivation would say that the passphrase is wrong.
    await expect(opening).rejects.toThrow("enough")
    await expect(openDisk(source, { signal: stopper.signal })).rejects.toThrow("enough")
    expect(source.changes).toBe(0)
    expect((await openDisk(file, { passphrase: "golden", signal: new AbortController().signal })).size).toBe(1 << 20)
  })
})
