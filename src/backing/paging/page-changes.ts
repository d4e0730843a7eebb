/** Applies a change to the pages that are in memory. */
import { applyChange, type Change } from "./log/change.ts"
import type { Page, PageCache } from "./page-cache.ts"

/** The file's extents before the change, in bytes. */
export interface Extents {
  readonly size: number
  /** The source has no data from here on: pages there are zeroes, and are made instead of loaded. */
  readonly end: number
}

export function changePages(cache: PageCache, change: Change, before: Extents): void {
  if (change.kind === "write") writePages(cache, change.data, change.offset, before.end)
  else if (change.kind === "truncate") cutPages(cache, change.size, before.size)
  else zeroPages(cache, change)
}

function writePages(cache: PageCache, data: Uint8Array, offset: number, sourceEnd: number): void {
  const { pageSize } = cache
  const end = offset + data.length
  for (let index = Math.floor(offset / pageSize); index * pageSize < end; index++) {
    const start = index * pageSize
    const from = Math.max(offset, start)
    const to = Math.min(end, start + pageSize)
    const page = cache.get(index) ?? newPage(cache, index, { isWhole: to - from === pageSize, isEmpty: start >= sourceEnd })
    if (page === undefined) continue
    page.used = true
    page.bytes.set(data.subarray(from - offset, to - offset), from - start)
  }
}

/** A page that need not be loaded: all of it will be written, or the source has no data there. Otherwise undefined. */
function newPage(
  cache: PageCache, index: number, { isWhole, isEmpty }: { readonly isWhole: boolean; readonly isEmpty: boolean },
): Page | undefined {
  if (!isWhole && !isEmpty) return undefined
  const bytes = cache.takeBuffer()
  if (!isWhole) bytes.fill(0)
  return cache.add(index, bytes)
}

/** Bytes that are cut off must not come back when the file grows again. */
function cutPages(cache: PageCache, size: number, before: number): void {
  if (size >= before) return
  const { pageSize } = cache
  for (const page of cache.within(Math.floor(size / pageSize), Math.floor((before - 1) / pageSize))) {
    if (page.index * pageSize >= size) cache.remove(page)
    else page.bytes.fill(0, size - page.index * pageSize)
  }
}

/** Bytes to zero at a time, within 2 ms. Whole pages beyond that are dropped: when they are loaded again, they are zeroed. */
const MOST_ZEROED = 16 << 20

function zeroPages(cache: PageCache, change: Change & { readonly kind: "zero" }): void {
  const { pageSize } = cache
  const end = change.offset + change.length
  let zeroed = 0
  for (const page of cache.within(Math.floor(change.offset / pageSize), Math.floor((end - 1) / pageSize))) {
    const start = page.index * pageSize
    const isWhole = change.offset <= start && start + pageSize <= end
    if (isWhole && zeroed >= MOST_ZEROED) cache.remove(page)
    else applyChange(change, page.bytes, start)
    zeroed += pageSize
  }
}
