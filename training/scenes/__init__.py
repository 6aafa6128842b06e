"""seed -> photo and exact depth: procedural scenes, ray cast with Embree.

START HERE: `render.render_scene(seed, size_hw)`. The journey:

    layouts.py   seed -> Scene: solids, lights, camera       (rooms, streets, tables, hills, heaps)
    objects.py   furniture-like solids made of primitives
    meshes.py    primitives -> triangles
    textures.py  surface point -> colour, before light
    render.py    Scene -> uint8 photo and float32 depth in metres, as a small camera would see it

World: metres, x right, y forward, z up. Every random number comes from the seed.
"""
