//go:build linux

package nft

import "testing"

// TestVersion: a table of another layout is not taken for ours, be it that a
// rule differs or a set.
func TestVersion(t *testing.T) {
	f := func() *family { return newFamily(Options{TableName: "t", MasqueradeMark: 1}, false) }
	want := f().layout
	for name, change := range map[string]func(*family){
		"the size of a set":  func(f *family) { f.sets.fronts.Size = 7 },
		"the flags of a set": func(f *family) { f.sets.loops.Dynamic = true },
		"a key's type":       func(f *family) { f.sets.clusterIPs.KeyType = f.sets.loops.KeyType },
		"a rule":             func(f *family) { f.mark = 2 },
	} {
		other := f()
		if other.layout != want {
			t.Fatal("two of the same layout differ")
		}
		change(other)
		if other.version() == want {
			t.Errorf("%s: another layout has the same version", name)
		}
	}
}

// TestNumbers: whoever asks by the same name gets the same number, also after a
// Replace; of two that would have the same the second gets the next.
func TestNumbers(t *testing.T) {
	i := ids{limit: 4}
	i.reset()
	take := func(name uint64, want uint32) {
		t.Helper()
		if got, err := i.take(name); err != nil || got != want {
			t.Errorf("got %d, %v, want %d", got, err, want)
		}
	}
	take(7, 3)
	take(3, 0)
	i.give(0)
	take(5, 1)
	i.reset()
	take(7, 3)
	take(5, 1)
	take(1, 2)
	take(2, 0)
	if n, err := i.take(0); err == nil {
		t.Errorf("got %d, and there are no more", n)
	}
}
