// A mean and how sure it is.

/** Mean of values added one by one, with its standard error: of values taken as independent. Sums are f64. */
export class Mean {
  sum = 0;
  squares = 0;
  count = 0;

  add(value: number): void {
    this.sum += value;
    this.squares += value * value;
    this.count++;
  }

  get mean(): number {
    return this.sum / this.count;
  }

  /** 0 of a single value. */
  get stderr(): number {
    const { sum, squares, count, mean } = this;
    return count > 1 ? Math.sqrt(Math.max(0, (squares - sum * mean) / (count - 1)) / count) : 0;
  }
}
