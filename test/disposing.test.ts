/** `using` and `await using`, as Node 20's own loader has no syntax for them yet: what they do is called by hand. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import type { VirtioBacking } from "../src/backing/backing.ts"
import { closing } from "../src/disposing.ts"
import {
  blobFile, BlockDriver, createImage, findBlockDevices, HostFile, Machine, MemoryBacking, NbdServer, openDisk, openImage,
} from "../src/index.ts"

/** What the compiler makes of `using thing`. */
function atEndOfBlock(thing: Disposable): void {
  thing[Symbol.dispose]()
}

/** What the compiler makes of `await using thing`. */
async function atEndOfAsyncBlock(thing: AsyncDisposable): Promise<void> {
  await thing[Symbol.asyncDispose]()
}

const CLOSED = expect.objectContaining({ code: "closed" })

function readsOf(disk: VirtioBacking): () => unknown {
  return () => disk.pread(new Uint8Array(512), 0)
}

describe("at the end of a block", () => {
  it("disks and files are closed", async () => {
    const folder = mkdtempSync(join(tmpdir(), "vioblk-using-"))
    try {
      const path = join(folder, "disk")
      for (const format of ["raw", "qcow2"] as const) {
        createImage(join(folder, format), { size: 1 << 20, format })
        for (const end of [atEndOfBlock, atEndOfAsyncBlock]) {
          const image = openImage(join(folder, format), { format })
          await end(image)
          expect(readsOf(image)).toThrow(CLOSED)
        }
      }
      const file = new HostFile(path, { create: true })
      atEndOfBlock(file)
      expect(() => file.size()).toThrow(CLOSED)
      const memory = new MemoryBacking({ size: 512 })
      atEndOfBlock(memory)
      expect(readsOf(memory)).toThrow(CLOSED)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it("disks that answer later are closed, and the end of the block waits for that", async () => {
    const disk = await openDisk(blobFile(new Blob([new Uint8Array(512)])), { format: "raw" })
    await atEndOfAsyncBlock(disk)
    await expect(Promise.resolve().then(readsOf(disk))).rejects.toThrow(CLOSED)
  })

  it("a disk that was passed to openDisk is closed", async () => {
    let closed = 0
    const own: VirtioBacking = { size: 512, readOnly: false, pread: () => undefined, pwrite: () => undefined, close: () => void closed++ }
    await atEndOfAsyncBlock(await openDisk(own))
    expect(closed).toBe(1)
    const frozen = Object.freeze({ ...own })
    expect(closing(frozen)).toBe(frozen)
  })

  it("drivers and servers are closed", async () => {
    const vm = new Machine({ ramSize: 4 << 20 })
    vm.attachDisk(new MemoryBacking({ size: 1 << 20 }))
    const [found] = findBlockDevices(vm)
    if (found === undefined) throw new Error("no disk")
    const driver = await BlockDriver.open(found)
    await atEndOfAsyncBlock(driver)
    await expect(driver.read(0, 1)).rejects.toMatchObject({ message: "the driver was closed" })
    await atEndOfAsyncBlock(new NbdServer({ exports: [{ name: "", backing: new MemoryBacking({ size: 512 }) }] }))
  })
})
