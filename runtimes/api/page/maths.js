// Cosines, and a map of two dimensions. Vectors are arrays of numbers, all of one length.

export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

export function cosine(a, b) {
  const size = Math.sqrt(dot(a, a) * dot(b, b));
  return size > 0 ? dot(a, b) / size : 0;
}

/** [n][n] cosines of n vectors. */
export function cosines(vectors) {
  return vectors.map((a) => vectors.map((b) => cosine(a, b)));
}

/**
 * Principal components of n vectors: `points` [n][2], and which share of the variance each of the
 * two axes holds. By the eigenvectors of the centred Gram matrix [n][n], which is small: n texts,
 * however long the vectors. The first point's side is fixed, so that the map does not flip.
 */
export function principal(vectors) {
  const n = vectors.length;
  const mean = vectors[0].map((_, i) => vectors.reduce((sum, v) => sum + v[i], 0) / n);
  const centred = vectors.map((v) => v.map((x, i) => x - mean[i]));
  const { values, columns } = eigen(centred.map((a) => centred.map((b) => dot(a, b))));
  const total = values.reduce((sum, value) => sum + Math.max(value, 0), 0);
  const axes = [0, 1].map((k) => {
    const value = Math.max(values[k] ?? 0, 0);
    if (total <= 0 || value < total * 1e-12) return { share: 0, at: new Array(n).fill(0) };
    const column = columns[k];
    const furthest = column.reduce((a, b) => (Math.abs(b) > Math.abs(a) + 1e-9 ? b : a), 0);
    const scale = Math.sqrt(value) * (furthest < 0 ? -1 : 1);
    return { share: value / total, at: column.map((x) => x * scale) };
  });
  return {
    points: vectors.map((_, i) => axes.map((axis) => axis.at[i])),
    shares: axes.map((axis) => axis.share),
  };
}

/** Eigenvalues of a symmetric matrix, largest first, and their vectors: Jacobi's rotations. */
export function eigen(matrix) {
  const n = matrix.length;
  const a = matrix.map((row) => [...row]);
  const v = a.map((_, i) => a.map((_, j) => (i === j ? 1 : 0)));
  const size = Math.sqrt(a.flat().reduce((sum, x) => sum + x * x, 0)) || 1;
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) off += a[p][q] ** 2;
    if (Math.sqrt(off) < 1e-13 * size) break;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) rotate(a, v, p, q);
    }
  }
  const order = a.map((_, i) => i).sort((i, j) => a[j][j] - a[i][i]);
  return {
    values: order.map((i) => a[i][i]),
    columns: order.map((i) => v.map((row) => row[i])),
  };
}

function rotate(a, v, p, q) {
  if (Math.abs(a[p][q]) < 1e-300) return;
  const theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
  const t = Math.sign(theta || 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
  const c = 1 / Math.sqrt(t * t + 1);
  const s = t * c;
  for (let k = 0; k < a.length; k++) {
    [a[k][p], a[k][q]] = [c * a[k][p] - s * a[k][q], s * a[k][p] + c * a[k][q]];
  }
  for (let k = 0; k < a.length; k++) {
    [a[p][k], a[q][k]] = [c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]];
    [v[k][p], v[k][q]] = [c * v[k][p] - s * v[k][q], s * v[k][p] + c * v[k][q]];
  }
}
