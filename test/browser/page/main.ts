/** The page: chooses a disk, boots it, shows what happens, and keeps what the guest has written. */
import { type AsyncImageFile, BackingError, blobFile, httpFile } from "vioblk"
import { DemoDisk, type DiskChoice } from "./disk.ts"
import { DiskMap } from "./disk-map.ts"
import { type Machine, startMachine } from "./machine.ts"
import { Terminal } from "./terminal.ts"

const DEMO_URL = "/images/demo.img"
/** Where overlays are in the origin private file system. */
const FOLDER = "overlays"
/** Milliseconds between two looks at the disk. */
const REFRESH = 400

interface Running {
  readonly disk: DemoDisk
  readonly machine: Machine
}

function find<T extends HTMLElement>(id: string): T {
  const element = document.getElementById(id)
  if (element === null) throw new Error(`the page has no element "${id}"`)
  return element as T
}

const input = (id: string): HTMLInputElement => find(id)
const button = (id: string): HTMLButtonElement => find(id)

let running: Running | undefined
const map = new DiskMap(find("cells"))
const terminal = new Terminal(find("serial"), (text) => running?.machine.emulator.serial0_send(text))

function say(text: string, kind: "" | "error" = ""): void {
  find("status").textContent = text
  find("status").className = kind
}

/** What the person has chosen. @throws BackingError that says what is missing */
function chosen(): DiskChoice {
  const source = document.querySelector<HTMLInputElement>("input[name=source]:checked")?.value
  const [file] = input("file").files ?? []
  if (source === "file" && file === undefined) throw new BackingError("invalid-argument", "choose a file first")
  if (source === "url" && input("url").value === "") throw new BackingError("invalid-argument", "enter a URL first")
  if (source === "file" && file !== undefined) return choice(blobFile(file), file.name, `${file.name}-${file.size}-${file.lastModified}`)
  const url = new URL(source === "url" ? input("url").value : DEMO_URL, location.href).href
  if (!/^https?:/.test(url)) throw new BackingError("invalid-argument", "the URL must begin with http: or https:", { path: url })
  // A guest reads bitmaps and tables of 4 KiB all over its disk: reads as long as the default would fetch four times as much of it.
  return choice(httpFile(url, { preferredRead: 65_536 }), url.slice(url.lastIndexOf("/") + 1), url)
}

/** One overlay for each base, named by what tells bases apart. */
function choice(file: AsyncImageFile, name: string, identity: string): DiskChoice {
  const overlay = input("keep").checked ? `${FOLDER}/${encodeURIComponent(identity)}.qcow2` : undefined
  return { file, name, overlay }
}

async function boot(): Promise<void> {
  const parts = chosen()
  button("start").disabled = true
  button("forget").disabled = true
  find("progress").hidden = false
  say(`Opening ${parts.name} ...`)
  const disk = await DemoDisk.open(parts)
  say("Starting the machine ...")
  terminal.note(
    `vioblk: ${parts.name}, ${bytes(disk.size)}; changes go to ${parts.overlay === undefined ? "memory" : "this browser's storage"}`,
  )
  const machine = await startMachine({
    backing: disk.backing, screen: find("screen"), serial: (byte) => terminal.put(byte), failed: (message) => say(message, "error"),
  })
  running = { disk, machine }
  button("save").disabled = false
  button("download").disabled = false
  find("progress").hidden = true
  say("Running. Click into the console and type. A guest that uses no serial line, and the BIOS, are under Screen.")
  find("serial").focus()
  await watch(running)
}

/** Draws the disk again and again. */
async function watch({ disk, machine }: Running): Promise<void> {
  const counts = await map.update(disk)
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0)
  for (const [place, count] of Object.entries(counts)) find(`count-${place}`).textContent = percent(count / all)
  const { read, write } = machine.disk.device.statistics
  find("size").textContent = bytes(disk.size)
  find("fetched").textContent = `${bytes(disk.base.bytes)} in ${disk.base.reads} reads`
  find("overlay").textContent = bytes(await disk.overlaySize())
  find("guest").textContent = `${bytes(read.bytes)} / ${bytes(write.bytes)}`
  setTimeout(() => attempt(() => watch({ disk, machine })), REFRESH)
}

async function save(): Promise<void> {
  await running?.disk.save()
  say(`Saved: what the guest has written is in the browser's storage (${new Date().toLocaleTimeString()}).`)
}

/** The machine rests meanwhile, so that the overlay is one state of the disk. */
async function download(): Promise<void> {
  if (running === undefined) return
  const { disk, machine } = running
  say("Collecting the overlay ...")
  await machine.emulator.stop()
  const blob = await disk.download()
  await machine.emulator.run()
  const link = document.createElement("a")
  link.href = URL.createObjectURL(blob)
  link.download = "overlay.qcow2"
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
  say(`Downloaded overlay.qcow2 (${bytes(blob.size)}). Beside its base, QEMU opens it as well.`)
}

async function forget(): Promise<void> {
  const root = await navigator.storage.getDirectory()
  try {
    await root.removeEntry(FOLDER, { recursive: true })
  } catch (error) {
    if (!(error instanceof DOMException) || error.name !== "NotFoundError") throw error
  }
  map.clear()
  say("All overlays are gone: every disk is as its base again.")
}

/** Runs what a click starts, and shows what fails. */
function attempt(work: () => Promise<void>): void {
  void work().catch((error: unknown) => {
    find("progress").hidden = true
    button("start").disabled = running !== undefined
    button("forget").disabled = running !== undefined
    say(error instanceof Error ? error.message : String(error), "error")
    if (!(error instanceof BackingError)) throw error
  })
}

/** Keys go to the serial line, or to the guest's keyboard. */
function show(id: "serial" | "screen"): void {
  running?.machine.emulator.keyboard_set_enabled(id === "screen")
  for (const name of ["serial", "screen"]) {
    find(name).hidden = name !== id
    find(`show-${name}`).className = name === id ? "selected" : ""
  }
}

function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"]
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, count)) / 10)))
  const value = count / 1024 ** power
  return `${value.toFixed(power === 0 || value >= 100 || Number.isInteger(value) ? 0 : 1)} ${units[power]}`
}

function percent(share: number): string {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(share * 100).toFixed(1)} %`
}

button("start").addEventListener("click", () => attempt(boot))
button("save").addEventListener("click", () => attempt(save))
button("download").addEventListener("click", () => attempt(download))
button("forget").addEventListener("click", () => attempt(forget))
button("show-serial").addEventListener("click", () => show("serial"))
button("show-screen").addEventListener("click", () => show("screen"))

/** For tests: what a person sees and types. */
Object.assign(globalThis, {
  demo: {
    expect: (pattern: string): Promise<string> => terminal.expect(new RegExp(pattern)),
    type: (text: string): void => running?.machine.emulator.serial0_send(text),
    guestRead: (): number => running?.machine.disk.device.statistics.read.bytes ?? 0,
    status: (): string | null => find("status").textContent,
  },
})
