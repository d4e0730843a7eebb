/** Describes a virtio disk: its PCI function, in the words of lspci, and the disk as the driver sees it. */
import type { BlockDriver } from "../../driver/block/driver.ts"
import type { Bar, PciDevice } from "../../driver/pci/device.ts"
import { virtioCapabilities } from "../../driver/virtio/capabilities.ts"
import { formatBytes, formatHex } from "../format.ts"

const STRUCTURES: Readonly<Record<number, string>> = {
  1: "CommonCfg", 2: "Notify", 3: "ISR", 4: "DeviceCfg", 5: "PciCfgAccess", 8: "SharedMemory", 9: "Vendor",
}

/** The PCI function and the disk, as values: what --json prints. */
export function describe(driver: BlockDriver, serial: string) {
  const { pci, transport, interrupts, vectors, queues } = driver.virtio
  const identity = driver.identify()
  return {
    pci: {
      address: pci.name,
      vendor: formatHex(pci.vendorId, 4),
      device: formatHex(pci.deviceId, 4),
      revision: pci.revisionId,
      class: formatHex(Math.floor(pci.classCode / 256), 4),
      subsystem: `${formatHex(pci.subsystemVendorId, 4)}:${formatHex(pci.subsystemId, 4)}`,
      bars: pci.bars(),
      capabilities: capabilityNames(pci),
      line: pci.interruptLine,
    },
    driver: { interface: transport.kind, interrupts, vectors, queues: queues.length, queueSize: queues[0]?.ring.size ?? 0 },
    serial,
    ...identity,
  }
}

export type Description = ReturnType<typeof describe>

function capabilityNames(pci: PciDevice): string[] {
  const structures = new Map(
    virtioCapabilities(pci).map(({ at, type, bar }) => {
      const place = type === 5 ? "" : ` in BAR ${bar}`
      return [at, `VirtIO: ${STRUCTURES[type] ?? `type ${type}`}${place}`]
    }),
  )
  return pci.capabilities().map(({ id, offset }) => {
    const name = id === 0x11 ? `MSI-X: ${pci.msix()?.size ?? 0} vectors` : (structures.get(offset) ?? `id ${formatHex(id, 2)}`)
    return `[${formatHex(offset, 2)}] ${name}`
  })
}

/** The lines that are printed without --json. */
export function descriptionLines(disk: Description): string[] {
  const { pci, driver } = disk
  const access = disk.readOnly ? "read-only" : "read-write"
  const cache = disk.writeback === undefined ? "" : disk.writeback ? ", write-back" : ", write-through"
  const version = driver.interface === "modern" && pci.revision > 0 ? "1.0 " : ""
  const interrupts = driver.interrupts === "msix" ? `MSI-X (${driver.vectors} vectors)` : driver.interrupts
  return [
    `${pci.address} SCSI storage controller [${pci.class}]: Red Hat, Inc. Virtio ${version}block device [${pci.vendor}:${pci.device}]` +
      ` (rev ${formatHex(pci.revision, 2)})`,
    `        Subsystem: [${pci.subsystem}]${pci.line === undefined ? "" : `, interrupt: pin A routed to IRQ ${pci.line}`}`,
    ...pci.bars.map((bar) => `        ${barLine(bar)}`),
    ...pci.capabilities.map((line) => `        Capabilities: ${line}`),
    `driver    ${driver.interface}, ${interrupts}, ${driver.queues} queue${driver.queues === 1 ? "" : "s"} of ${driver.queueSize}`,
    ...wrapped("features", disk.features),
    `capacity  ${disk.capacity} sectors, ${formatBytes(disk.size)}, ${access}${cache}`,
    `serial    ${disk.serial === "" ? "(none)" : disk.serial}`,
  ]
}

function barLine(bar: Bar): string {
  if (bar.space === "io") return `I/O ports at ${formatHex(bar.address, 4)} [size=${bar.size}]`
  const kind = `${bar.is64Bit ? "64" : "32"}-bit, ${bar.prefetchable ? "" : "non-"}prefetchable`
  return `Memory at ${formatHex(bar.address, 8)} (${kind}) [size=${formatBytes(bar.size).replace(/ (.)iB$/, "$1")}]`
}

/** A title and then words, in lines of at most 100 characters. */
function wrapped(title: string, words: readonly string[]): string[] {
  const lines = [title.padEnd(10)]
  for (const word of words) {
    const line = lines.at(-1) ?? ""
    if (line.length + word.length > 100) lines.push(" ".repeat(10) + word)
    else lines[lines.length - 1] = line + (line.endsWith(" ") ? "" : " ") + word
  }
  return lines
}
