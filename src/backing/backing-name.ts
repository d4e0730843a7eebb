/**
 * Interprets the name of a backing file, or of an external data file. QEMU writes names of files, and addresses that only its own drivers
 * understand.
 */
import { BackingError } from "./backing.ts"
import type { BackingReference } from "./qcow2/open.ts"

/** Common protocols of QEMU, in words. */
const PROTOCOLS: Readonly<Record<string, string>> = {
  json: "a description for QEMU in JSON",
  nbd: "the address of an NBD server",
  http: "the address of a web server",
  https: "the address of a web server",
  ftp: "the address of an FTP server",
  ftps: "the address of an FTP server",
  ssh: "the address of an SSH server",
  nfs: "the address of an NFS server",
  iscsi: "the address of an iSCSI target",
  rbd: "the address of a Ceph image",
  fat: "a folder that QEMU shows as a disk",
}

/** A file name. `toImage`: relative to the folder of the image that has the name; otherwise to the current directory. */
export interface FileName {
  readonly path: string
  readonly toImage: boolean
}

/**
 * The file that `reference` names (QC-BF-07, QC-BF-08). Like QEMU, takes the part before a colon for a protocol, unless a slash comes
 * first. After "file:" comes a path, which is not decoded, and is relative to the current directory.
 * @throws BackingError `unsupported` for anything but a file: no name in an image makes us connect anywhere
 */
export function backingFileName(reference: BackingReference): FileName {
  const { name, imagePath, isDataFile } = reference
  if (isDataFile === true) return dataFileName(reference)
  const protocol = /^([^:/]*):/.exec(name)?.[1]
  if (protocol === undefined) return { path: name, toImage: true }
  if (protocol === "file") return { path: name.slice("file:".length), toImage: false }
  const base = protocol.replace(/\+.*/, "")
  const known = Object.hasOwn(PROTOCOLS, base) ? PROTOCOLS[base] : undefined
  const what = known ?? `an address for QEMU's protocol "${protocol}" (as the name of a file it is written "./${name}")`
  const remedy = 'copy its content to a file, and name that with "qemu-img rebase -u -b FILE -F FORMAT", or in resolveBacking'
  throw new BackingError("unsupported", `its backing file "${name}" is not a file but ${what}; ${remedy}`, { path: imagePath })
}

/**
 * The external data file that an image names (QC-DF-08). It is written, so an untrusted image must not name just any file of the host: the
 * data file has to be in the image's own folder, or below.
 */
function dataFileName(reference: BackingReference): FileName {
  const { name, imagePath } = reference
  if (name === "") {
    throw new BackingError("unsupported", `it does not name its external data file; ${DATA_FILE_REMEDY}`, { path: imagePath })
  }
  const isProtocol = /^[^:/]*:/.test(name)
  if (isProtocol || name.startsWith("/") || /^[a-z]:|\\/i.test(name) || name.split("/").includes("..")) {
    throw outsideOfFolder(reference, isProtocol ? "may be" : "is")
  }
  return { path: name, toImage: true }
}

const DATA_FILE_REMEDY = "give the file that you mean by the option dataFile, or in resolveBacking"

/** The error for an external data file that is not in the image's folder. */
export function outsideOfFolder({ name, imagePath }: BackingReference, verb = "is"): BackingError {
  const message = `its external data file "${name}" ${verb} outside of the image's folder, and would be written to; ${DATA_FILE_REMEDY}`
  return new BackingError("unsupported", message, { path: imagePath })
}
