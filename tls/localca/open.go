package localca

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

const (
	certFile = "ca.crt"
	keyFile  = "ca.key"
	lockFile = "lock"
)

// DefaultDir is the folder of the CA below $XDG_STATE_HOME, which is
// ~/.local/state if it is not set.
func DefaultDir() (string, error) {
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) { // the specification has relative ones ignored
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("there is no state folder: %w; set XDG_STATE_HOME", err)
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "portico", "local-ca"), nil
}

// Open returns the CA in a folder. It is made on first use, and made anew when
// it nears its end or cannot be used. Processes that open it at once get the
// same CA. An error means that the folder is of no use; New always works.
func Open(opts Options) (*CA, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Dir == "" {
		dir, err := DefaultDir()
		if err != nil {
			return nil, err
		}
		opts.Dir = dir
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the local CA: %w", err)
	}
	unlock, err := lock(filepath.Join(opts.Dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("lock the folder of the local CA: %w", err)
	}
	defer unlock()
	ca, err := load(opts)
	if err != nil || ca != nil {
		return ca, err
	}
	if ca, err = New(opts); err != nil {
		return nil, err
	}
	if err := ca.save(opts.Dir); err != nil {
		return nil, fmt.Errorf("keep the local CA: %w", err)
	}
	return ca, nil
}

// lock waits for the lock; the kernel gives it up when a process dies.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// load returns the CA of the folder, or nil if a new one has to be made.
func load(opts Options) (*CA, error) {
	name := filepath.Join(opts.Dir, keyFile)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the key of the local CA: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others may read %s (mode %04o); remove the folder %s to have a new local CA made", name, info.Mode().Perm(), opts.Dir)
	}
	keyPEM, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the key of the local CA: %w", err)
	}
	file := filepath.Join(opts.Dir, certFile)
	certPEM, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the local CA: %w", err)
	}
	ca := &CA{cert: decodeCert(certPEM), key: decodeKey(keyPEM), file: file, now: opts.Now}
	if !ca.usable() {
		return nil, nil
	}
	return ca, nil
}

// usable reports whether key and certificate belong together, are constrained
// as ours are, and last long enough.
func (ca *CA) usable() bool {
	return ca.cert != nil && ca.key != nil &&
		ca.key.PublicKey.Equal(ca.cert.PublicKey) &&
		ca.cert.IsCA && ca.cert.PermittedDNSDomainsCritical &&
		slices.Equal(ca.cert.PermittedDNSDomains, []string{Domain}) &&
		len(ca.cert.ExcludedIPRanges) == len(everyAddress) &&
		ca.now().After(ca.cert.NotBefore) &&
		ca.now().Add(remakeBefore).Before(ca.cert.NotAfter)
}

func decodeCert(text []byte) *x509.Certificate {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return cert
}

func decodeKey(text []byte) *ecdsa.PrivateKey {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil
	}
	ec, _ := key.(*ecdsa.PrivateKey)
	return ec
}

// save writes the key first: a certificate that does not fit it, left by a
// crash in between, is not usable and gets replaced.
func (ca *CA) save(dir string) error {
	key, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, keyFile), key, 0o600); err != nil {
		return err
	}
	ca.file = filepath.Join(dir, certFile)
	return replace(ca.file, encodeCert(ca.cert), 0o644)
}

// replace puts a file in place at once. The caller holds the lock, so the
// draft is its own; it is removed first because a mode only counts on creation.
func replace(name string, data []byte, mode fs.FileMode) error {
	draft := name + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(draft, data, mode); err != nil {
		return err
	}
	return os.Rename(draft, name)
}
