package acme

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newFiles(t testing.TB, dir string) *Files {
	t.Helper()
	f, err := NewFiles(dir, NewTokens(nil))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRecords(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	one, two := newFiles(t, dir), newFiles(t, dir)
	w := Wanted{Owner: "shop", Issuer: &Issuer{Name: "own"}, Names: []string{"a.example"}}
	if _, err := one.Record(ctx, w.ID()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	r := w.record()
	r.Failures.add(&failure{reason: ReasonValidation, message: "no", host: "a.example"}, r.Names, begun)
	if err := one.PutRecord(ctx, r); err != nil {
		t.Fatal(err)
	}
	again, err := two.Record(ctx, w.ID())
	if err != nil || again.Failures.Message != "no" || len(again.Failures.Validations["a.example"]) != 1 || again.Version != r.Version {
		t.Errorf("%+v, %v", again, err)
	}
	again.NextKey = []byte("key")
	if err := two.PutRecord(ctx, again); err != nil {
		t.Fatal(err)
	}
	if err := one.PutRecord(ctx, r); !errors.Is(err, ErrConflict) {
		t.Errorf("a record that another changed is written: %v", err)
	}
	if err := one.PutRecord(ctx, w.record()); !errors.Is(err, ErrConflict) {
		t.Errorf("a record is made twice: %v", err)
	}
	if err := one.DeleteRecord(ctx, r); !errors.Is(err, ErrConflict) {
		t.Errorf("a record that another changed is deleted: %v", err)
	}
	for _, name := range []string{one.recordFile(w.ID()), filepath.Dir(one.recordFile(w.ID()))} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if list, err := two.Records(ctx); err != nil || len(list) != 1 {
		t.Errorf("%d records, %v", len(list), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "records", "x.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Records(ctx); err == nil || !strings.Contains(err.Error(), "x.json") {
		t.Errorf("a record that cannot be read is ignored: %v", err)
	}
	if err := two.DeleteRecord(ctx, again); err != nil {
		t.Error(err)
	}
}

// TestFilesHold: two processes in one folder do not hold one lock, and who waits
// gets it when it is given up.
func TestFilesHold(t *testing.T) {
	dir := t.TempDir()
	one, two := newFiles(t, dir), newFiles(t, dir)
	held, release, err := one.Hold(t.Context(), "x/y")
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := two.Hold(soon, "x/y"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second holder: %v", err)
	}
	if err := two.Lock(t.Context(), "other"); err != nil {
		t.Error(err)
	}
	got := make(chan error, 1)
	go func() { got <- two.Lock(t.Context(), "x/y") }()
	release()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if held.Err() == nil {
		t.Error("what was held is held after it was given up")
	}
	for _, name := range []string{"x/y", "other"} {
		if err := two.Unlock(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	if err := two.Unlock(t.Context(), "x/y"); err == nil {
		t.Error("a lock is given up twice")
	}
}

// TestFilesFeedTokens: what certmagic stores of a challenge is answered.
func TestFilesFeedTokens(t *testing.T) {
	f := newFiles(t, t.TempDir())
	key, value := challenge("http-01", "a.example", "one")
	if err := f.Store(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.tokens.Respond(t.Context(), "a.example", "one"); !ok {
		t.Error("a stored token is not known")
	}
	if err := f.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.tokens.Respond(t.Context(), "a.example", "one"); ok {
		t.Error("a deleted token is known")
	}
}

func FuzzDecodeRecord(f *testing.F) {
	w := Wanted{Owner: "shop", Issuer: &Issuer{Name: "own"}, Names: []string{"a.example"}}
	text, _ := w.record().Encode()
	f.Add(w.ID(), text)
	f.Add("", []byte("{}"))
	f.Add("x", []byte(`{"id":"x","names":["a"],"order":{"since":"2026-01-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, id string, text []byte) {
		r, err := DecodeRecord(id, text)
		if err != nil {
			return
		}
		if r.ID != id || len(r.Names) == 0 {
			t.Errorf("%+v", r)
		}
		again, err := r.clone().finish().Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeRecord(id, again); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}

// TestPrivate: keys that others may read are not used, and a folder is closed to
// others where nobody else has anything in it.
func TestPrivate(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := newFiles(t, dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := f.KeepRoots("own", []byte("roots")); err != nil {
		t.Fatal(err)
	}
	if err := f.FileStorage.Store(t.Context(), "issuers/le/key", []byte("key")); err != nil {
		t.Fatal(err)
	}
	if err := f.FileStorage.Store(t.Context(), "ca/own.pem", []byte("key")); err != nil {
		t.Fatal(err)
	}
	key, roots, ca := filepath.Join(dir, "issuers", "le", "key"), f.RootsFile("own"), filepath.Join(dir, "ca", "own.pem")
	for _, c := range []struct {
		name string
		mode os.FileMode
		want string
	}{{roots, 0o644, ""}, {ca, 0o644, "own.pem has mode"}, {ca, 0o600, ""}, {key, 0o644, "chmod -R go= " + dir}, {key, 0o620, "chmod -R go= " + dir}, {key, 0o600, ""}} {
		if err := os.Chmod(c.name, c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := NewFiles(dir, nil); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s with %v: %v, want %q", c.name, c.mode, err, c.want)
		}
	}
	shared := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(shared, "theirs"), nil, 0o600), os.Chmod(shared, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := NewFiles(shared, nil); err == nil || !strings.Contains(err.Error(), "a folder of its own") {
		t.Error(err)
	}
	if info, err := os.Stat(shared); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("somebody else's folder is changed: %v, %v", info.Mode(), err)
	}
}

// TestAlone: one process at a time orders with a folder.
func TestAlone(t *testing.T) {
	dir := t.TempDir()
	one, two := newFiles(t, dir), newFiles(t, dir)
	release, err := one.Alone()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.Alone(); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("two at once: %v", err)
	}
	release()
	if release, err = two.Alone(); err != nil {
		t.Fatal(err)
	}
	release()
}
