/** What a TypeScript project that closes disks by `using` and `await using` compiles against, and runs. */
import {
  blobFile, BlockDriver, createImage, findBlockDevices, HostFile, Machine, MemoryBacking, NbdServer, openDisk, openImage,
  type VirtioBacking,
} from "vioblk"

declare const console: { log(text: string): void }

const PATH = "using.qcow2"

/** Whether the disk is closed: reading of a closed one fails. */
async function isClosed(disk: VirtioBacking): Promise<boolean> {
  try {
    await disk.pread(new Uint8Array(512), 0)
    return false
  } catch {
    return true
  }
}

async function useAll(): Promise<readonly VirtioBacking[]> {
  using memory = new MemoryBacking({ size: 1 << 20 })
  await using file = new HostFile(PATH, { readOnly: true })
  await using disk = await openDisk(file, { format: "qcow2", readOnly: true })
  await using raw = await openDisk(blobFile(new Blob([new Uint8Array(512)])), { format: "raw", readOnly: true })
  await using server = new NbdServer({ exports: [{ name: "a", backing: memory }] })
  const vm = new Machine({ ramSize: 1 << 24 })
  vm.attachDisk(disk)
  const [pci] = findBlockDevices(vm)
  if (pci === undefined) throw new Error("no disk")
  await using driver = await BlockDriver.open(pci)
  if (driver.identify().capacity !== disk.size / 512 || server === undefined) throw new Error("another disk")
  return [memory, disk, raw]
}

createImage(PATH, { size: 1 << 20 })
{
  using image = openImage(PATH)
  image.pwrite(new Uint8Array(512), 0)
}
// The lock is gone with the block, or this would be refused.
openImage(PATH).close()
for (const disk of await useAll()) if (!(await isClosed(disk))) throw new Error("a disk is open behind its block")
console.log("using: ok")
