package status

import (
	"context"
	"sync"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// A termCache is the shared cache for the time of one term: its event handlers
// are removed at the end, where controller-runtime would leave them behind.
type termCache struct {
	cache.Cache

	mu       sync.Mutex // protects the following
	removals []func() error
}

// GetInformer returns an informer that notes who listens.
func (c *termCache) GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error) {
	informer, err := c.Cache.GetInformer(ctx, obj, opts...)
	if err != nil {
		return nil, err
	}
	return &termInformer{Informer: informer, cache: c}, nil
}

// end removes the handlers that were added.
func (c *termCache) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, remove := range c.removals {
		if err := remove(); err != nil {
			return err
		}
	}
	c.removals = nil
	return nil
}

type termInformer struct {
	cache.Informer
	cache *termCache
}

// AddEventHandlerWithOptions is how sources listen.
func (i *termInformer) AddEventHandlerWithOptions(h toolscache.ResourceEventHandler, opts toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	registration, err := i.Informer.AddEventHandlerWithOptions(h, opts)
	if err != nil {
		return nil, err
	}
	i.cache.mu.Lock()
	defer i.cache.mu.Unlock()
	i.cache.removals = append(i.cache.removals, func() error { return i.Informer.RemoveEventHandler(registration) })
	return registration, nil
}
