package certs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/portico-ingress/portico/tls/acme"
)

// Kinds of what is stored, as the label kindLabel has them. Replicas watch
// records and tokens; account keys are values, which nobody but the process that
// orders ever reads.
const (
	kindLabel  = "portico.dev/acme"
	kindRecord = "record"
	kindToken  = "token"
	kindValue  = "value"
	kindLock   = "lock"
)

// secretType keeps these Secrets apart from everybody's who looks for a type.
const secretType corev1.SecretType = "portico.dev/acme"

// Keys in the data of a Secret.
const (
	dataKey      = "key" // the storage's name of a value
	dataValue    = "value"
	dataModified = "modified"
	dataRecord   = "record"
	dataNextKey  = "next.key"
)

// Storage keeps what the replicas of a cluster share in one namespace: Secrets
// for values and records, Leases for locks. The names of its objects are made of
// digests, so that it can neither read nor write any others. Safe for concurrent
// use.
type Storage struct {
	// const after NewStorage
	secrets  corev1client.SecretInterface
	leases   coordinationv1client.LeaseInterface
	identity string
	duration time.Duration
	log      logr.Logger

	mu    sync.Mutex // protects the following
	locks map[string]func()
}

var _ acme.Storage = (*Storage)(nil)

// StorageOptions configure a Storage. Namespace and Identity are required.
type StorageOptions struct {
	// Namespace should have nothing else in it.
	Namespace string
	// Identity names this process in Leases.
	Identity string
	// LockDuration is after what time without renewal a lock is another's to
	// take, in whole seconds; 0: 30 s.
	LockDuration time.Duration
	Log          logr.Logger
}

// NewStorage returns a Storage that uses the given clients.
func NewStorage(core corev1client.SecretsGetter, coordination coordinationv1client.LeasesGetter, o StorageOptions) *Storage {
	if o.LockDuration == 0 {
		o.LockDuration = 30 * time.Second
	}
	return &Storage{
		secrets: core.Secrets(o.Namespace), leases: coordination.Leases(o.Namespace),
		identity: o.Identity, duration: o.LockDuration, log: o.Log, locks: make(map[string]func()),
	}
}

// objectName is safe whatever the key says.
func objectName(kind, key string) string {
	sum := sha256.Sum256([]byte(key))
	return kind + "-" + hex.EncodeToString(sum[:16])
}

func kindOf(key string) string {
	if acme.IsToken(key) {
		return kindToken
	}
	return kindValue
}

// maxData is the apiserver's limit of a Secret's data.
const maxData = corev1.MaxSecretSize

func newSecret(kind, name string, data map[string][]byte) (*corev1.Secret, error) {
	size := 0
	for k, v := range data {
		size += len(k) + len(v)
	}
	if size > maxData {
		return nil, fmt.Errorf("%s %s has %d bytes; a Secret holds %d", kind, name, size, maxData)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{kindLabel: kind}},
		Type:       secretType, Data: data,
	}, nil
}

// Store creates or replaces a value.
func (s *Storage) Store(ctx context.Context, key string, value []byte) error {
	kind := kindOf(key)
	secret, err := newSecret(kind, objectName(kind, key), map[string][]byte{
		dataKey: []byte(key), dataValue: value, dataModified: []byte(time.Now().UTC().Format(time.RFC3339Nano)),
	})
	if err != nil {
		return err
	}
	for {
		_, err = s.secrets.Create(ctx, secret, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		_, err = s.secrets.Update(ctx, secret, metav1.UpdateOptions{}) // without resourceVersion: replaces
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
}

// value reads the Secret of a key.
func (s *Storage) value(ctx context.Context, key string) (*corev1.Secret, error) {
	secret, err := s.secrets.Get(ctx, objectName(kindOf(key), key), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	case err != nil:
		return nil, err
	case string(secret.Data[dataKey]) != key:
		return nil, fmt.Errorf("the Secret %s holds something else than %s", secret.Name, key)
	}
	return secret, nil
}

// Load returns a value.
func (s *Storage) Load(ctx context.Context, key string) ([]byte, error) {
	secret, err := s.value(ctx, key)
	if err != nil {
		return nil, err
	}
	return secret.Data[dataValue], nil
}

// Delete deletes a value; it is no error if there is none.
func (s *Storage) Delete(ctx context.Context, key string) error {
	err := s.secrets.Delete(ctx, objectName(kindOf(key), key), metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Exists reports whether there is a value under a key, or below it.
func (s *Storage) Exists(ctx context.Context, key string) bool {
	if _, err := s.value(ctx, key); err == nil {
		return true
	}
	below, err := s.List(ctx, key, true)
	return err == nil && len(below) > 0
}

// List returns the keys below a prefix, as in a tree of folders.
func (s *Storage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	var keys []string
	folder := strings.TrimSuffix(prefix, "/") + "/"
	err := s.each(ctx, kindLabel+" in ("+kindValue+","+kindToken+")", func(secret *corev1.Secret) {
		rest, ok := strings.CutPrefix(string(secret.Data[dataKey]), folder)
		if prefix == "" {
			rest, ok = string(secret.Data[dataKey]), true
		}
		if !ok {
			return
		}
		if !recursive {
			rest, _, _ = strings.Cut(rest, "/")
		}
		keys = append(keys, strings.TrimPrefix(folder+rest, "/"))
	})
	slices.Sort(keys)
	return slices.Compact(keys), err
}

// each reads all Secrets of a selector, page by page.
func (s *Storage) each(ctx context.Context, selector string, f func(*corev1.Secret)) error {
	opts := metav1.ListOptions{LabelSelector: selector, Limit: 500}
	for {
		list, err := s.secrets.List(ctx, opts)
		if err != nil {
			return err
		}
		for i := range list.Items {
			f(&list.Items[i])
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			return nil
		}
	}
}

// Stat tells of one value.
func (s *Storage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	secret, err := s.value(ctx, key)
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	modified, err := time.Parse(time.RFC3339Nano, string(secret.Data[dataModified]))
	if err != nil {
		modified = secret.CreationTimestamp.Time
	}
	return certmagic.KeyInfo{Key: key, Modified: modified, Size: int64(len(secret.Data[dataValue])), IsTerminal: true}, nil
}

func recordName(id string) string { return kindRecord + "-" + id }

// readRecord reads the record in a Secret.
func readRecord(secret *corev1.Secret) (*acme.Record, error) {
	id, ok := strings.CutPrefix(secret.Name, kindRecord+"-")
	if !ok {
		return nil, fmt.Errorf("the Secret %s is no record of a certificate", secret.Name)
	}
	r, err := acme.DecodeRecord(id, secret.Data[dataRecord])
	if err != nil {
		return nil, err
	}
	r.Chain, r.Key, r.NextKey = secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey], secret.Data[dataNextKey]
	r.Version = secret.ResourceVersion
	return r, nil
}

// Record reads one record.
func (s *Storage) Record(ctx context.Context, id string) (*acme.Record, error) {
	secret, err := s.secrets.Get(ctx, recordName(id), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("record %s: %w", id, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return readRecord(secret)
}

// Records reads all records. One that cannot be read costs its own certificate:
// as long as the Secret is there, no other is put in its place.
func (s *Storage) Records(ctx context.Context) ([]*acme.Record, error) {
	var out []*acme.Record
	err := s.each(ctx, kindLabel+"="+kindRecord, func(secret *corev1.Secret) {
		r, err := readRecord(secret)
		if err != nil {
			s.log.Error(err, "a record of a certificate is left alone; delete its Secret to have it ordered anew", "secret", secret.Name)
			return
		}
		out = append(out, r)
	})
	return out, err
}

// PutRecord creates or replaces a record.
func (s *Storage) PutRecord(ctx context.Context, r *acme.Record) error {
	text, err := r.Encode()
	if err != nil {
		return err
	}
	data := map[string][]byte{dataRecord: text}
	for k, v := range map[string][]byte{corev1.TLSCertKey: r.Chain, corev1.TLSPrivateKeyKey: r.Key, dataNextKey: r.NextKey} {
		if len(v) > 0 {
			data[k] = v
		}
	}
	secret, err := newSecret(kindRecord, recordName(r.ID), data)
	if err != nil {
		return err
	}
	if secret.ResourceVersion = r.Version; r.Version == "" {
		secret, err = s.secrets.Create(ctx, secret, metav1.CreateOptions{})
	} else {
		secret, err = s.secrets.Update(ctx, secret, metav1.UpdateOptions{})
	}
	if err != nil {
		return conflict(err)
	}
	r.Version = secret.ResourceVersion
	return nil
}

// DeleteRecord deletes a record.
func (s *Storage) DeleteRecord(ctx context.Context, r *acme.Record) error {
	version := r.Version
	return conflict(s.secrets.Delete(ctx, recordName(r.ID), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}}))
}

// conflict marks the errors that tell of another writer.
func conflict(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		return errors.Join(acme.ErrConflict, err)
	}
	return err
}
