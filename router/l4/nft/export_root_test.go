//go:build linux && root

package nft

// NumberFrom has pools and special fronts numbered from n on, for tests that
// compare what they are.
func (k *Kernel) NumberFrom(n uint32) {
	for _, f := range k.families {
		f.pools.next, f.specials.next = n, n
	}
}
