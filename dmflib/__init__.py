"""Tools for a book on the implicit bias of gradient descent.

The package has three parts that combine freely: a *loss* on the product matrix (`dmflib.losses`),
*factors* whose product is that matrix (`dmflib.linear_networks`), and a *mover* that changes the
factors, gradient descent (`dmflib.descent`) or gradient flow (`dmflib.flow`). Every mover returns
a `dmflib.trajectory.Trajectory`. One module for each chapter stands on these.

Importing the package loads nothing but itself: import the modules you need.
"""

__version__ = "1.0.0"
