package acme

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/certmagic"
)

// Files is a Storage in a folder, for a machine of its own. Processes that
// share the folder keep out of each other's way; challenges are answered by
// the process that ordered only, which should hold it Alone.
type Files struct {
	certmagic.FileStorage // const after NewFiles
	tokens                *Tokens

	mu    sync.Mutex // protects the following
	locks map[string]func()
}

var _ Storage = (*Files)(nil)

// NewFiles returns the storage in dir, which is made if need be. It is an error if
// others than the owner may read what is in it. Challenges are passed on to tokens.
func NewFiles(dir string, tokens *Tokens) (*Files, error) {
	for _, sub := range []string{"records", "locks", rootsFolder} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("make the folder of certificates: %w", err)
		}
	}
	if err := makePrivate(dir); err != nil {
		return nil, err
	}
	return &Files{FileStorage: certmagic.FileStorage{Path: dir}, tokens: tokens, locks: make(map[string]func())}, nil
}

// Store keeps a value.
func (f *Files) Store(ctx context.Context, key string, value []byte) error {
	if err := f.FileStorage.Store(ctx, key, value); err != nil {
		return err
	}
	if f.tokens != nil {
		f.tokens.Set(key, value)
	}
	return nil
}

// Delete forgets a value.
func (f *Files) Delete(ctx context.Context, key string) error {
	if f.tokens != nil {
		f.tokens.Delete(key)
	}
	return f.FileStorage.Delete(ctx, key)
}

// RootsFile is where KeepRoots puts what clients should trust of an issuer.
func (f *Files) RootsFile(issuer string) string {
	return filepath.Join(f.Path, rootsFolder, issuer+".crt")
}

// KeepRoots puts what clients should trust of an issuer that is a CA of our own
// beside its key, for curl --cacert and browsers.
func (f *Files) KeepRoots(issuer string, pem []byte) error {
	name := f.RootsFile(issuer)
	if known, err := os.ReadFile(name); err == nil && bytes.Equal(known, pem) {
		return nil
	}
	draft, err := os.CreateTemp(filepath.Dir(name), issuer+".*")
	if err != nil {
		return err
	}
	_, err = draft.Write(pem)
	if err = errors.Join(err, draft.Close()); err == nil {
		err = os.Rename(draft.Name(), name)
	}
	if err != nil {
		_ = os.Remove(draft.Name())
	}
	return err
}

func (f *Files) recordFile(id string) string { return filepath.Join(f.Path, "records", id+".json") }

// Record reads one record.
func (f *Files) Record(_ context.Context, id string) (*Record, error) {
	text, err := os.ReadFile(f.recordFile(id))
	if err != nil {
		return nil, err
	}
	r, err := DecodeRecord(id, text)
	if err != nil {
		return nil, err
	}
	r.Version = version(text)
	return r, nil
}

// version stands for the content of a file.
func version(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Records reads all records. One that cannot be read is an error: a
// certificate might be ordered although there is one.
func (f *Files) Records(ctx context.Context) ([]*Record, error) {
	entries, err := os.ReadDir(filepath.Join(f.Path, "records"))
	if err != nil {
		return nil, err
	}
	var out []*Record
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		r, err := f.Record(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.recordFile(id), err)
		}
		out = append(out, r)
	}
	return out, nil
}

// PutRecord writes a record.
func (f *Files) PutRecord(ctx context.Context, r *Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.unchanged(r); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := f.FileStorage.Store(ctx, "records/"+r.ID+".json", text); err != nil {
		return err
	}
	r.Version = version(text)
	return nil
}

// DeleteRecord deletes a record.
func (f *Files) DeleteRecord(_ context.Context, r *Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.unchanged(r); err != nil {
		return err
	}
	return os.Remove(f.recordFile(r.ID))
}

func (f *Files) unchanged(r *Record) error {
	text, err := os.ReadFile(f.recordFile(r.ID))
	switch {
	case errors.Is(err, fs.ErrNotExist) && r.Version == "":
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil || version(text) != r.Version:
		return ErrConflict
	}
	return nil
}

// Hold waits for the lock of a name. The kernel gives it up when the process
// dies, so it is never lost.
func (f *Files) Hold(ctx context.Context, name string) (context.Context, func(), error) {
	file, err := os.OpenFile(filepath.Join(f.Path, "locks", certmagic.StorageKeys.Safe(name)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			held, end := context.WithCancel(ctx)
			return held, func() { end(); _ = file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, nil, errors.Join(err, file.Close())
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return nil, nil, errors.Join(ctx.Err(), file.Close())
		}
	}
}

// Lock is certmagic's way to Hold.
func (f *Files) Lock(ctx context.Context, name string) error {
	_, release, err := f.Hold(ctx, name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locks[name] = release
	return nil
}

// Unlock gives up what Lock has taken.
func (f *Files) Unlock(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	release, ok := f.locks[name]
	if !ok {
		return fmt.Errorf("%s is not locked", name)
	}
	delete(f.locks, name)
	release()
	return nil
}
