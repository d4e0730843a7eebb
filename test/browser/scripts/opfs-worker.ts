/** A worker of the tests: a qcow2 image in the origin private file system, used at once. Import maps do not count in workers. */
import { BlockDriver, checkQcow2, createQcow2, findBlockDevices, Machine, openQcow2Image, opfsSyncFile } from "./parts.ts"

/** What the worker is to do with the image at `path`: make it and write to it as a guest does, or read that back. */
export interface WorkerTask {
  readonly path: string
  readonly act: "write" | "read"
}

export interface WorkerAnswer {
  readonly lock: string | undefined
  readonly errors: number
  readonly text: string
}

const scope = globalThis as unknown as {
  onmessage: ((event: { readonly data: WorkerTask }) => void) | null
  postMessage(answer: WorkerAnswer): void
}

scope.onmessage = ({ data }) => {
  void use(data).then((answer) => scope.postMessage(answer), (error: unknown) => {
    // For the page's onerror.
    setTimeout(() => {
      throw error
    })
  })
}

async function use({ path, act }: WorkerTask): Promise<WorkerAnswer> {
  const file = await opfsSyncFile(path, { create: act === "write" })
  if (act === "write") createQcow2(file, { size: 64 << 20 })
  const image = openQcow2Image(file)
  const vm = new Machine({ ramSize: 16 << 20 })
  vm.attachDisk(image)
  const [pci] = findBlockDevices(vm)
  if (pci === undefined) throw new Error("there is no disk on the bus")
  const disk = await BlockDriver.open(pci)
  if (act === "write") await disk.write(4096, new TextEncoder().encode("from a worker".padEnd(512, "\0")))
  await disk.flush()
  const text = new TextDecoder().decode(await disk.read(4096, 1)).replace(/\0+$/, "")
  image.close()
  const again = await opfsSyncFile(path, { readOnly: true })
  const { exitCode } = checkQcow2(again)
  again.close()
  return { lock: file.lock, errors: exitCode, text }
}
