// Package bench holds the benchmarks that span packages: how the cost of a
// match, of a change and of memory grows with the number of Ingresses. Each has
// a peer beside it in the same run, so that figures are ratios, not claims.
package bench
