"""seed -> photo and exact depth: procedural scenes, ray cast with Embree.

START HERE: `render.render_scene(seed, size_hw)`. The journey:

    layouts/         seed -> Scene: rooms, kitchens, desks, streets, hills, heaps; how often each comes
    scene.py         what a Scene is: solids, lights, camera
    objects.py       furniture-like solids made of primitives
    near_objects.py  what stands within reach: screens, crockery, kitchen units
    meshes.py        primitives -> triangles
    textures.py      surface point -> colour, before light; parts of photos where photos are given
    render.py        Scene -> uint8 photo and float32 depth in metres, as a small camera would see it

World: metres, x right, y forward, z up. Every random number comes from the seed.
"""
