package envtest_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/controllers/certs"
	"github.com/portico-ingress/portico/test/envtest"
	"github.com/portico-ingress/portico/tls/acme"
)

// lockDuration is as short as Leases allow without races against the apiserver.
const lockDuration = 3 * time.Second

// storage is one process's view of what a test's replicas share.
func (c *cluster) storage(identity string, change ...func(*rest.Config)) *certs.Storage {
	c.t.Helper()
	config := envtest.Config()
	config.QPS = -1
	for _, f := range change {
		f(config)
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		c.t.Fatal(err)
	}
	return certs.NewStorage(clients.CoreV1(), clients.CoordinationV1(), certs.StorageOptions{
		Namespace: c.namespace, Identity: identity, LockDuration: lockDuration, Log: logr.Discard(),
	})
}

func TestStorageValues(t *testing.T) {
	c := newCluster(t)
	s, ctx := c.storage("a"), t.Context()
	long := strings.Repeat("long/", 200) + "é*\x00"
	keys := []string{"acme/ca/users/x@example.com/x.json", "acme/ca/users/x@example.com/x.key", "acme/ca/challenge_tokens/a.example.json", "top", long}
	for _, k := range keys {
		if _, err := s.Load(ctx, k); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q before: %v", k, err)
		}
		if err := errors.Join(s.Store(ctx, k, []byte("first")), s.Store(ctx, k, []byte(k))); err != nil {
			t.Fatal(err)
		}
		info, err := s.Stat(ctx, k)
		if got, e := s.Load(ctx, k); e != nil || err != nil || string(got) != k || info.Size != int64(len(k)) || !s.Exists(ctx, k) {
			t.Errorf("%q: %q, %+v, %v, %v", k, got, info, e, err)
		}
	}
	for _, list := range []struct {
		prefix    string
		recursive bool
		want      []string
	}{
		{"acme/ca", false, []string{"acme/ca/challenge_tokens", "acme/ca/users"}},
		{"acme/ca/users", true, keys[:2]},
		{"acme/c", true, nil},
	} {
		if got, err := s.List(ctx, list.prefix, list.recursive); err != nil || !slices.Equal(got, list.want) {
			t.Errorf("below %s: %v, %v", list.prefix, got, err)
		}
	}
	if !s.Exists(ctx, "acme/ca") || s.Exists(ctx, "acme/c") {
		t.Error("a folder exists where something lies below it, and only there")
	}
	if err := s.Store(ctx, "big", make([]byte, corev1.MaxSecretSize)); err == nil || !strings.Contains(err.Error(), "a Secret holds") {
		t.Errorf("too big: %v", err)
	}
	if err := errors.Join(s.Delete(ctx, "top"), s.Delete(ctx, "top")); err != nil || s.Exists(ctx, "top") {
		t.Errorf("deleted: %v", err)
	}
}

// What is stored is found by digest only: a Secret that somebody puts there
// under such a name is not taken for ours.
func TestStorageReadsNothingElse(t *testing.T) {
	c := newCluster(t)
	s, ctx := c.storage("a"), t.Context()
	if err := s.Store(ctx, "one", []byte("x")); err != nil {
		t.Fatal(err)
	}
	var list corev1.SecretList
	if err := c.List(ctx, &list, client.InNamespace(c.namespace)); err != nil || len(list.Items) != 1 {
		t.Fatal(err, list.Items)
	}
	secret := &list.Items[0]
	if strings.Contains(secret.Name, "one") {
		t.Errorf("the name %s shows the key", secret.Name)
	}
	secret.Data["key"] = []byte("two")
	if err := c.Update(ctx, secret); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load(ctx, "one"); err == nil {
		t.Errorf("read %q", got)
	}
}

func TestStorageRecords(t *testing.T) {
	c := newCluster(t)
	s, ctx := c.storage("a"), t.Context()
	names := []string{"*.a.example", "a.example"}
	r := &acme.Record{ID: acme.ID("shop", "ca", names), Owner: "shop", Issuer: "ca", Names: names, Key: []byte("key"), NextKey: []byte("next"), Chain: []byte("chain")}
	if err := s.PutRecord(ctx, r); err != nil || r.Version == "" {
		t.Fatal(err)
	}
	twin, err := c.storage("b").Record(ctx, r.ID)
	if err != nil || !bytes.Equal(twin.NextKey, r.NextKey) || !bytes.Equal(twin.Key, r.Key) || twin.Owner != "shop" {
		t.Fatalf("%+v, %v", twin, err)
	}
	twin.NextKey = nil
	if err := s.PutRecord(ctx, twin); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"put":    s.PutRecord(ctx, r),
		"delete": s.DeleteRecord(ctx, r),
		"create": s.PutRecord(ctx, &acme.Record{ID: r.ID, Owner: "shop", Issuer: "ca", Names: names}),
	} {
		if !errors.Is(err, acme.ErrConflict) {
			t.Errorf("%s of what was changed since: %v", what, err)
		}
	}
	if all, err := s.Records(ctx); err != nil || len(all) != 1 || all[0].Version != twin.Version || len(all[0].NextKey) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := s.DeleteRecord(ctx, twin); err != nil {
		t.Error(err)
	}
	if _, err := s.Record(ctx, r.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Three processes fight for one lock: never two have it, and each gets it.
func TestLockContention(t *testing.T) {
	c := newCluster(t)
	var inside, rounds atomic.Int32
	var group sync.WaitGroup
	for _, id := range []string{"a", "b", "c"} {
		s := c.storage(id)
		for range 2 {
			group.Go(func() {
				for range 3 {
					held, release, err := s.Hold(t.Context(), "names")
					if err != nil {
						t.Error(err)
						return
					}
					if n := inside.Add(1); n != 1 {
						t.Errorf("%d hold the lock", n)
					}
					if _, err := s.Load(held, "nothing"); !errors.Is(err, fs.ErrNotExist) { // takes a while
						t.Error(err)
					}
					inside.Add(-1)
					rounds.Add(1)
					release()
				}
			})
		}
	}
	group.Wait()
	if rounds.Load() != 18 {
		t.Errorf("%d rounds, want 18", rounds.Load())
	}
	var left coordinationv1.LeaseList
	if err := c.List(t.Context(), &left, client.InNamespace(c.namespace)); err != nil || len(left.Items) != 0 {
		t.Errorf("Leases stay: %v, %v", left.Items, err)
	}
}

// A process that loses the apiserver stops before another gets its lock, and
// one that dies is followed by another.
func TestLockTakeover(t *testing.T) {
	c := newCluster(t)
	l := new(line)
	first, second := c.storage("a", func(cfg *rest.Config) { cfg.Dial = l.dial }), c.storage("b")
	held, release, err := first.Hold(t.Context(), "names")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	eventually(t, func() error { // it is renewed for longer than it lasts
		var list coordinationv1.LeaseList
		if err := c.List(t.Context(), &list, client.InNamespace(c.namespace)); err != nil {
			return err
		}
		if n := len(list.Items); n != 1 || list.Items[0].Spec.RenewTime.Sub(list.Items[0].Spec.AcquireTime.Time) < 2*lockDuration || held.Err() != nil {
			return errNotYet("not renewed for long")
		}
		return nil
	})
	early, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := second.Hold(early, "names"); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting ended with %v", err)
	}
	l.set(true)
	_, releaseSecond, err := second.Hold(t.Context(), "names")
	if err != nil {
		t.Fatal(err)
	}
	defer releaseSecond()
	if held.Err() == nil {
		t.Error("two hold the lock")
	}
	l.set(false)
}
