/** Items between a producer that cannot wait and a consumer that may be slow: an async iterator, bounded by its user. */
export class ItemQueue<T> implements AsyncIterableIterator<T> {
  bytes = 0;
  /** Called after each item taken. */
  onTaken: (() => void) | undefined;

  #items: { item: T; bytes: number }[] = [];
  #takers: ((result: IteratorResult<T>) => void)[] = [];
  #ended = false;

  push(item: T, bytes = 0): void {
    const taker = this.#takers.shift();
    if (taker !== undefined) {
      taker({ value: item, done: false });
      return;
    }
    this.#items.push({ item, bytes });
    this.bytes += bytes;
  }

  end(): void {
    this.#ended = true;
    for (const taker of this.#takers.splice(0)) {
      taker({ value: undefined, done: true });
    }
  }

  get length(): number {
    return this.#items.length;
  }

  next(): Promise<IteratorResult<T>> {
    const first = this.#items.shift();
    if (first !== undefined) {
      this.bytes -= first.bytes;
      this.onTaken?.();
      return Promise.resolve({ value: first.item, done: false });
    }
    if (this.#ended) {
      return Promise.resolve({ value: undefined, done: true });
    }
    return new Promise((resolve) => this.#takers.push(resolve));
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
