/**
 * Replaces the header cluster so that a crash at any moment leaves the old or the new header. A disk writes only single sectors atomically,
 * and the header, its extensions and the backing file name are often longer than a sector.
 */
import { getU64, roundUp, setU64, viewOf } from "../../bytes/fields.ts"
import { EXTENSION_TYPE, HEADER_FIELD, HEADER_SIZE, SECTOR_SIZE } from "./spec.ts"

/** A write to the first cluster. It has to be durable before the next one begins. */
export interface HeaderWrite {
  readonly offset: number
  readonly bytes: Uint8Array
}

/**
 * Type of a header extension that covers meaningless bytes while a header is replaced. Other programs skip it as an unknown one
 * (QC-EXT-04).
 */
export const COVER_TYPE = 0x766f_6964

const HEAD_SIZE = 8

/**
 * The writes that replace `current`, the whole first cluster, by `next`, the bytes of a header that fits into it.
 *
 * If more than one sector changes, everything after the fixed fields is first written to a free part of the cluster. Then the first sector
 * is written, with the new fields, and a cover extension over all old bytes: this switches to the new header. Then the rest of the new
 * header is written under the cover, and the first sector is written again without the cover. A cluster without room for this is written at
 * once.
 */
export function headerWrites(current: Uint8Array, next: Uint8Array): HeaderWrite[] {
  const target = new Uint8Array(current.length)
  target.set(next)
  const changed = changedRange(current, target)
  if (changed.from >= changed.to) return []
  const start = headerLength(target)
  const cover = coverEnd(current, headerLength(current))
  if (changed.to - changed.from <= SECTOR_SIZE || start + HEAD_SIZE > SECTOR_SIZE) return [part(target, changed.from, changed.to)]
  // A crash has left a cover that has room for the new header.
  if (cover > 0 && next.length <= cover) return uncover(target, cover, changed.to)
  const place = roundUp(Math.max(liveEnd(current), next.length, SECTOR_SIZE), HEAD_SIZE)
  const end = place + next.length - start
  if (end > target.length) return [part(target, changed.from, changed.to)]
  const copy = { offset: place, bytes: next.slice(start) }
  return [copy, { offset: 0, bytes: coveredSector(target, { start, place }) }, ...uncover(target, place, Math.max(end, changed.to))]
}

/** The sectors that differ, as bytes `from` to `to`. */
function changedRange(current: Uint8Array, target: Uint8Array): { readonly from: number; readonly to: number } {
  let from = 0
  while (from < target.length && current[from] === target[from]) from++
  let to = target.length
  while (to > from && current[to - 1] === target[to - 1]) to--
  return { from: from - (from % SECTOR_SIZE), to: Math.min(roundUp(to, SECTOR_SIZE), target.length) }
}

/**
 * The last writes, while a cover extends to `place`: the new header under the cover, the first sector without the cover, and zeroes over
 * the copy.
 */
function uncover(target: Uint8Array, place: number, end: number): HeaderWrite[] {
  const writes = [part(target, SECTOR_SIZE, place), part(target, 0, SECTOR_SIZE), part(target, place, end)]
  return writes.filter(({ bytes }) => bytes.length > 0)
}

/** The first sector of `target` with a cover from `start` to `place`, where the extensions and the name then are. */
function coveredSector(target: Uint8Array, { start, place }: { readonly start: number; readonly place: number }): Uint8Array {
  const sector = target.slice(0, SECTOR_SIZE)
  const view = viewOf(sector)
  view.setUint32(start, COVER_TYPE)
  view.setUint32(start + 4, place - start - HEAD_SIZE)
  const name = getU64(view, HEADER_FIELD.BACKING_FILE_OFFSET)
  if (name !== 0) setU64(view, HEADER_FIELD.BACKING_FILE_OFFSET, name - start + place)
  return sector
}

/** The end of a cover that a crash has left at byte `start`, or 0. */
function coverEnd(current: Uint8Array, start: number): number {
  if (start + HEAD_SIZE > current.length) return 0
  const view = viewOf(current)
  if (view.getUint32(start) !== COVER_TYPE) return 0
  const end = start + HEAD_SIZE + view.getUint32(start + 4)
  return end < current.length ? end : 0
}

/** The end of the header in `current`, with its extensions, their END record, and the backing file's name. */
function liveEnd(current: Uint8Array): number {
  const view = viewOf(current)
  let at = headerLength(current)
  for (;;) {
    if (at + HEAD_SIZE > current.length) return current.length
    const isEnd = view.getUint32(at) === EXTENSION_TYPE.END
    at += HEAD_SIZE + roundUp(view.getUint32(at + 4), HEAD_SIZE)
    if (isEnd) break
  }
  const name = getU64(view, HEADER_FIELD.BACKING_FILE_OFFSET)
  return Math.max(at, name === 0 ? 0 : name + view.getUint32(HEADER_FIELD.BACKING_FILE_SIZE))
}

function headerLength(cluster: Uint8Array): number {
  const view = viewOf(cluster)
  return view.getUint32(HEADER_FIELD.VERSION) === 2 ? HEADER_SIZE.V2 : view.getUint32(HEADER_FIELD.HEADER_LENGTH)
}

function part(target: Uint8Array, from: number, to: number): HeaderWrite {
  return { offset: from, bytes: target.slice(from, to) }
}
