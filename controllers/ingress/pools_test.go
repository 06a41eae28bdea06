package ingress

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/upstream"
)

func pool(n int) upstream.Key {
	return upstream.Key{Namespace: "shop", Service: "s" + strconv.Itoa(n/2), Port: strconv.Itoa(n % 2)}
}

// Whatever Ingresses come and go, the index says what counting afresh says.
func TestReferencesAgainstCounting(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	refs := newReferences()
	truth := map[router.Key][]upstream.Key{}
	for step := range 2000 {
		ing := router.Key{Namespace: "shop", Name: strconv.Itoa(random.IntN(20))}
		var keys []upstream.Key
		for n := range 12 {
			if random.IntN(4) == 0 {
				keys = append(keys, pool(n))
			}
		}
		before := referred(truth)
		if truth[ing] = keys; len(keys) == 0 {
			delete(truth, ing)
		}
		after := referred(truth)
		added, dropped := refs.set(ing, keys)
		for _, k := range added {
			if before[k] || !after[k] {
				t.Fatalf("step %d: %s counts as added", step, k)
			}
		}
		for _, k := range dropped {
			if !before[k] || after[k] {
				t.Fatalf("step %d: %s counts as dropped", step, k)
			}
		}
		if len(after) != len(before)+len(added)-len(dropped) {
			t.Fatalf("step %d: %d pools became %d by %v and without %v", step, len(before), len(after), added, dropped)
		}
		byService := map[upstream.Key]bool{}
		for _, list := range refs.byService {
			for _, k := range list {
				byService[k] = true
			}
		}
		if !maps.Equal(byService, after) {
			t.Fatalf("step %d: by Service %v, want %v", step, byService, after)
		}
	}
}

func referred(truth map[router.Key][]upstream.Key) map[upstream.Key]bool {
	all := map[upstream.Key]bool{}
	for _, keys := range truth {
		for _, k := range keys {
			all[k] = true
		}
	}
	return all
}

// A pool outlives its last reference for a while, because the served table may
// still lead there.
func TestSweepKeepsWhatWentLately(t *testing.T) {
	refs := newReferences()
	ing := router.Key{Namespace: "shop", Name: "web"}
	refs.set(ing, []upstream.Key{pool(0), pool(1), pool(2)})
	refs.set(ing, []upstream.Key{pool(2)})
	kept := func(before time.Time) []upstream.Key {
		keep := slices.Collect(maps.Keys(refs.sweep(before)))
		slices.SortFunc(keep, func(a, b upstream.Key) int {
			return int(a.String()[len(a.String())-1]) - int(b.String()[len(b.String())-1])
		})
		return keep
	}
	if got := kept(time.Now().Add(-time.Hour)); len(got) != 3 {
		t.Errorf("kept %v, want all three", got)
	}
	refs.set(ing, []upstream.Key{pool(1), pool(2)}) // comes back
	if got := kept(time.Now().Add(time.Hour)); len(got) != 2 || slices.Contains(got, pool(0)) {
		t.Errorf("kept %v, want %v and %v", got, pool(1), pool(2))
	}
}
